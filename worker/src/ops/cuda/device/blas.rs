//! What cuBLAS is given, and what it says of itself.

use std::ffi::c_void;
use std::rc::Rc;

use candle_core::cuda_backend::CudaDevice;
use cudarc::cublas::sys as cublas_sys;
use cudarc::driver::{CudaSlice, DevicePtr};

use super::failed;
use crate::ops::DeviceError;

/// What NVIDIA recommends for the GPUs that want the most.
const WORKSPACE_BYTES: usize = 32 << 20;

/// The version of cuBLAS, `13.1.0`: another one may multiply in another order.
#[must_use]
pub fn cublas_version() -> Option<String> {
    use cublas_sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let number = |property| {
        let mut value = 0;
        // SAFETY: the call writes one int.
        unsafe { cublas_sys::cublasGetProperty(property, &mut value) }.result().ok().map(|()| value)
    };
    Some(format!("{}.{}.{}", number(MAJOR_VERSION)?, number(MINOR_VERSION)?, number(PATCH_LEVEL)?))
}

/// Gives cuBLAS memory of its own, the same everywhere: by its size it chooses how it multiplies, and so the last bits. What
/// it has by itself depends on the environment (`CUBLAS_WORKSPACE_CONFIG`) and on the GPU.
pub(super) fn give_workspace(device: &CudaDevice) -> Result<Rc<CudaSlice<u8>>, DeviceError> {
    let stream = device.cuda_stream();
    // SAFETY: cuBLAS reads nothing that it has not written.
    let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.map_err(failed("take memory for cuBLAS"))?;
    let address = workspace.device_ptr(&stream).0 as *mut c_void;
    // SAFETY: the handle is the device's own and has this stream alone, in whose order the memory is freed.
    let set = unsafe { cublas_sys::cublasSetWorkspace_v2(*device.cublas_handle().handle(), address, WORKSPACE_BYTES) };
    set.result().map_err(|error| DeviceError::Failed { doing: "set up cuBLAS", problem: format!("{error:?}") })?;
    Ok(Rc::new(workspace))
}
