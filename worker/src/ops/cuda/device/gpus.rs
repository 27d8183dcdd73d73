//! The GPUs that this process may use.

use std::ffi::CStr;
use std::ops::Range;

use cudarc::driver::sys::{CUdevice, CUdevice_P2PAttribute_enum as PeerAttribute};
use cudarc::driver::{CudaContext, DriverError, result as driver, sys as driver_sys};

use super::{failed, text};
use crate::ops::DeviceError;
use crate::ops::cuda::surroundings::Surroundings;

/// The compute capability that the kernels are compiled for.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);
/// What a machine has of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its number among those visible to this process.
    pub ordinal: usize,
    /// Its name, e.g. `NVIDIA H200`.
    pub name: String,
    /// Its UUID, as `nvidia-smi -L` writes it.
    pub uuid: String,
    /// Its memory.
    pub bytes: usize,
    /// Its compute capability.
    pub capability: (i32, i32),
}

impl Description {
    /// Checks that the kernels run on it; then it has `bfloat16` as well.
    ///
    /// # Errors
    /// It is too old.
    pub fn check(&self) -> Result<(), DeviceError> {
        if self.capability >= OLDEST_CAPABILITY {
            return Ok(());
        }
        let ((major, minor), (least, _), name) = (self.capability, OLDEST_CAPABILITY, &self.name);
        let problem = format!("{name} has compute capability {major}.{minor}; the kernels need {least}.0 or later");
        Err(DeviceError::Failed { doing: "open the GPU", problem })
    }
}

/// The GPUs that this process may use: `CUDA_VISIBLE_DEVICES` (numbers, UUIDs, MIG names) is honoured by the driver.
///
/// # Errors
/// There is no driver, or it is too old for this worker's kernels.
pub fn visible() -> Result<Vec<Description>, DeviceError> {
    check_driver()?;
    let count = CudaContext::device_count().map_err(failed("count the GPUs"))?;
    (0..usize::try_from(count).unwrap_or(0)).map(describe).collect()
}

/// Checks that the driver is there and can load this worker's kernels.
pub(super) fn check_driver() -> Result<(), DeviceError> {
    let doing = "start CUDA";
    driver::init().map_err(|error| DeviceError::Failed {
        doing,
        problem: format!("{}; is the NVIDIA driver installed, and {}", text(error), allowed()),
    })?;
    let version = driver_version().map_err(failed(doing))?;
    let needed: i32 = env!("MEDLEY_CUDA_VERSION").parse().unwrap_or(0);
    if version < needed {
        let [have, need] = [version, needed].map(|version| format!("{}.{}", version / 1000, version % 1000 / 10));
        let problem = format!(
            "the NVIDIA driver supports CUDA {have}, this worker's kernels are for CUDA {need}: install a driver that \
             supports it (580 or later for CUDA 13), or build the worker with an older toolkit"
        );
        return Err(DeviceError::Failed { doing, problem });
    }
    Ok(())
}

/// The CUDA that the driver is for, 13000 for 13.0.
fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the call writes one int.
    unsafe { driver_sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// Where there is none that this process may see, CUDA says no more than where there is none.
fn allowed() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(value) => {
            format!("does CUDA_VISIBLE_DEVICES, which is \"{value}\", name a GPU of it (nvidia-smi -L lists them)?")
        }
        Err(_) => "is this process allowed to see a GPU?".to_owned(),
    }
}

pub(super) fn describe(ordinal: usize) -> Result<Description, DeviceError> {
    let failed = || failed("look at a GPU");
    let device = driver::device::get(i32::try_from(ordinal).unwrap_or(i32::MAX)).map_err(failed())?;
    let mut uuid = driver_sys::CUuuid { bytes: [0; 16] };
    // The first version of this call tells of a part the whole GPU's.
    // SAFETY: the device is one that the driver has named, and the call writes 16 bytes.
    unsafe { driver_sys::cuDeviceGetUuid_v2(&mut uuid, device) }.result().map_err(failed())?;
    let hex: String = uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
    let part = |range: Range<usize>| hex.get(range).unwrap_or_default();
    let name = driver::device::get_name(device).map_err(failed())?;
    // Of a part of a GPU the driver tells the part's own.
    let kind = if name.contains(" MIG ") { "MIG" } else { "GPU" };
    let uuid = format!("{kind}-{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32));
    // SAFETY: the device is one that the driver has named.
    let (bytes, major, minor) = unsafe {
        use driver_sys::CUdevice_attribute_enum as Attribute;
        (
            driver::device::total_mem(device).map_err(failed())?,
            driver::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
                .map_err(failed())?,
            driver::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
                .map_err(failed())?,
        )
    };
    Ok(Description { ordinal, name, uuid, bytes, capability: (major, minor) })
}

/// The place of `own` among the GPUs that this process sees.
pub(super) fn surroundings(own: CUdevice) -> Result<Surroundings, DeviceError> {
    let failed = || failed("look at the GPUs");
    let (mut others, mut reached, mut linked) = (0, 0, 0);
    for ordinal in 0..CudaContext::device_count().map_err(failed())? {
        let other = driver::device::get(ordinal).map_err(failed())?;
        if other == own {
            continue;
        }
        let can = |attribute| {
            let mut can = 0;
            // SAFETY: both devices are ones that the driver has named, and the call writes one int.
            let code = unsafe { driver_sys::cuDeviceGetP2PAttribute(&mut can, attribute, own, other) };
            code.result().map_err(failed()).map(|()| usize::from(can != 0))
        };
        others += 1;
        reached += can(PeerAttribute::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED)?;
        linked += can(PeerAttribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)?;
    }
    let mut bus = [0; 32];
    // SAFETY: the call writes no more than so many characters, the last of which is a zero.
    let code = unsafe { driver_sys::cuDeviceGetPCIBusId(bus.as_mut_ptr(), bus.len() as i32, own) };
    code.result().map_err(failed())?;
    let bus = bus.map(|character| character as u8);
    let bus = CStr::from_bytes_until_nul(&bus).unwrap_or_default().to_string_lossy().into_owned();
    let (name, driver) = (driver::device::get_name(own).map_err(failed())?, driver_version().map_err(failed())?);
    Ok(Surroundings { name, bus, driver, others, reached, linked })
}
