//! cuBLASLt: products with their epilogues, each by an algorithm that is chosen once for all products like it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::failed;
use crate::display::say;
use crate::ops::DeviceError;
use crate::ops::cuda::driver::{Element, Epilogue, Matrix, Product};

/// What NVIDIA recommends for the GPUs that want the most. It is the same everywhere: by its size cuBLASLt chooses how it
/// multiplies, and so the last bits.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Algorithms that are kept, a kilobyte each: those of all products of a model for a thousand numbers of tokens.
const MOST_PLANS: usize = 16_384;
/// Algorithms that are tried where the best one is refused.
const MOST_TRIED: usize = 16;
/// No kernel reads more at a time: where something lies beyond that says nothing, and must not show in the bits.
const MOST_ALIGNED: u64 = 16;
/// Where a product is cut along its inner dimension, the parts are added in `f32` and in their order.
const REDUCTIONS: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
const NO_EPILOGUE: u32 = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT as u32;

const CHOOSE: &str = "choose how to multiply matrices";
const MULTIPLY: &str = "multiply matrices";

/// The version of cuBLASLt, `13.1.0`: another one may multiply in another order.
#[must_use]
pub fn cublas_version() -> Option<String> {
    use sys::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let number = |property| {
        let mut value = 0;
        // SAFETY: the call writes one int.
        unsafe { sys::cublasLtGetProperty(property, &mut value) }.result().ok().map(|()| value)
    };
    Some(format!("{}.{}.{}", number(MAJOR_VERSION)?, number(MINOR_VERSION)?, number(PATCH_LEVEL)?))
}

/// What multiplies matrices on one stream.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    /// How products of `f32` matrices are computed.
    wide: sys::cublasComputeType_t,
    workspace: CudaSlice<u8>,
    /// None where cuBLASLt has no algorithm, or runs none that it has.
    plans: RefCell<BTreeMap<Kind, Option<Rc<Plan>>>>,
    /// Whether it has been said that it runs none for an epilogue.
    said: Cell<bool>,
}

/// All that an algorithm is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    size: [usize; 3],
    /// Of `a`, `b` and `c`: elements from a column to the next, whether the transpose is meant, the kind of elements, and how
    /// far they are aligned.
    matrices: [(usize, bool, Element, u64); 3],
    /// Which, and how far its vector is aligned.
    epilogue: (u32, u64),
}

impl Kind {
    fn of(product: &Product) -> Self {
        let form = |matrix: &Matrix| (matrix.leading, matrix.transposed, matrix.element, alignment(matrix.address));
        let epilogue = match product.epilogue {
            None => (NO_EPILOGUE, MOST_ALIGNED),
            Some(Epilogue::Bias(vector)) => (sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32, alignment(vector)),
            Some(Epilogue::BiasGradient(vector)) => {
                (sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB as u32, alignment(vector))
            }
        };
        Self { size: product.size, matrices: [&product.a, &product.b, &product.c].map(form), epilogue }
    }
}

/// A product's description for cuBLASLt, and its algorithm.
struct Plan {
    operation: Operation,
    layouts: [Layout; 3],
    algorithm: Cell<sys::cublasLtMatmulAlgo_t>,
}

struct Operation(sys::cublasLtMatmulDesc_t);

struct Layout(sys::cublasLtMatrixLayout_t);

struct Preference(sys::cublasLtMatmulPreference_t);

impl Blas {
    /// Products on `stream`; `tf32` lets the factors of products of `f32` matrices be rounded to 10 bits of fraction.
    pub(super) fn new(stream: &std::sync::Arc<CudaStream>, tf32: bool) -> Result<Self, DeviceError> {
        // SAFETY: cuBLASLt reads nothing that it has not written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.map_err(failed("take memory for cuBLASLt"))?;
        let handle = lt::create_handle().map_err(refused("set up cuBLASLt"))?;
        let wide = if tf32 {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        Ok(Self { handle, wide, workspace, plans: RefCell::default(), said: Cell::new(false) })
    }

    /// Enqueues a product on the stream that this was made for; false where cuBLASLt does not have its epilogue.
    ///
    /// What cuBLASLt chooses it may yet refuse to run: then the next of its algorithms that it runs is taken from there on,
    /// and where there is none, the product goes without its epilogue from there on.
    ///
    /// # Safety
    /// As for [`Driver::product`](crate::ops::cuda::driver::Driver::product).
    pub(super) unsafe fn multiply(
        &self,
        stream: &std::sync::Arc<CudaStream>,
        product: &Product,
    ) -> Result<bool, DeviceError> {
        let kind = Kind::of(product);
        if let Some(plan) = self.plan(product, kind)? {
            // SAFETY: the caller's.
            let run = |algorithm| unsafe { self.run(stream, product, &plan, algorithm) };
            if run(plan.algorithm.get())? {
                return Ok(true);
            }
            let others = self.algorithms(&plan.operation, &plan.layouts, &kind, MOST_TRIED);
            for algorithm in others.map_err(refused(CHOOSE))? {
                if run(algorithm)? {
                    plan.algorithm.set(algorithm);
                    return Ok(true);
                }
            }
            self.plans.borrow_mut().insert(kind, None);
            if product.epilogue.is_some() && !self.said.replace(true) {
                let [m, n, k] = product.size;
                say(&format!(
                    "warning: cuBLASLt runs nothing of what it has for {m} x {n} x {k} with a bias: kernels of Medley's own take \
                     its place, there and wherever else that is so"
                ));
            }
        }
        if product.epilogue.is_some() {
            return Ok(false);
        }
        let [m, n, k] = product.size;
        let problem = format!("cuBLASLt has no algorithm for {m} x {n} x {k}");
        Err(DeviceError::Failed { doing: MULTIPLY, problem })
    }

    /// Enqueues a product by this algorithm; false where it is refused as not supported.
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    unsafe fn run(
        &self,
        stream: &std::sync::Arc<CudaStream>,
        product: &Product,
        plan: &Plan,
        algorithm: sys::cublasLtMatmulAlgo_t,
    ) -> Result<bool, DeviceError> {
        if let Some(Epilogue::Bias(vector) | Epilogue::BiasGradient(vector)) = product.epilogue {
            plan.operation.point_to(vector).map_err(refused(MULTIPLY))?;
        }
        let (alpha, beta) = (1.0_f32, if product.add { 1.0_f32 } else { 0.0 });
        let [a, b, c] = [&product.a, &product.b, &product.c].map(|matrix| matrix.address as *const c_void);
        let [a_layout, b_layout, c_layout] = [0, 1, 2].map(|i: usize| plan.layouts[i].0);
        // SAFETY: the caller answers for the matrices and the vector; `alpha` and `beta` are f32, as the description says,
        // and are read during the call; the workspace is this stream's, and as large as the algorithm was told.
        let result = unsafe {
            lt::matmul(
                self.handle,
                plan.operation.0,
                std::ptr::from_ref(&alpha).cast(),
                std::ptr::from_ref(&beta).cast(),
                a,
                a_layout,
                b,
                b_layout,
                c,
                c_layout,
                c.cast_mut(),
                c_layout,
                &algorithm,
                self.workspace.device_ptr(stream).0 as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        };
        match result {
            Ok(()) => Ok(true),
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => Ok(false),
            Err(error) => {
                let [m, n, k] = product.size;
                Err(DeviceError::Failed { doing: MULTIPLY, problem: format!("{:?} for {m} x {n} x {k}", error.0) })
            }
        }
    }

    /// How to compute the product, chosen where none of its kind was asked for lately.
    fn plan(&self, product: &Product, kind: Kind) -> Result<Option<Rc<Plan>>, DeviceError> {
        if let Some(known) = self.plans.borrow().get(&kind) {
            return Ok(known.clone());
        }
        let plan = match self.choose(product, &kind) {
            Ok(plan) => Some(Rc::new(plan)),
            // What an epilogue is not there for may be one or the other; without it, the product itself is asked for.
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => None,
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE)) if product.epilogue.is_some() => None,
            Err(error) => return Err(refused(CHOOSE)(error)),
        };
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        plans.insert(kind, plan.clone());
        Ok(plan)
    }

    fn choose(&self, product: &Product, kind: &Kind) -> Result<Plan, CublasError> {
        let [m, n, k] = product.size;
        let compute = match product.a.element {
            Element::F32 => self.wide,
            Element::Bf16 | Element::F16 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let operation = Operation::new(compute, product, kind)?;
        let layouts = [Layout::new(&product.a, m, k)?, Layout::new(&product.b, k, n)?, Layout::new(&product.c, m, n)?];
        let algorithms = self.algorithms(&operation, &layouts, kind, 1)?;
        let best = algorithms.first().ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
        Ok(Plan { operation, layouts, algorithm: Cell::new(*best) })
    }

    /// So many of the algorithms that there are for products of a kind, the best first.
    fn algorithms(
        &self,
        operation: &Operation,
        layouts: &[Layout; 3],
        kind: &Kind,
        most: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let (epilogue, alignment) = kind.epilogue;
        if epilogue != NO_EPILOGUE {
            // To choose an algorithm, cuBLASLt looks at the vector's address for how it is aligned, and for nothing else.
            operation.point_to(alignment)?;
        }
        let preference = Preference::new(kind)?;
        let [a, b, c] = [0, 1, 2].map(|i: usize| layouts[i].0);
        let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(most);
        let mut count = 0;
        // SAFETY: all of them live, and as many results are written as `count` then says, at most those that there is room for.
        unsafe {
            let (results, count) = (found.as_mut_ptr(), &raw mut count);
            let (operation, preference, most) = (operation.0, preference.0, most as i32);
            sys::cublasLtMatmulAlgoGetHeuristic(self.handle, operation, a, b, c, c, preference, most, results, count)
        }
        .result()?;
        // SAFETY: so many have been written.
        unsafe { found.set_len(usize::try_from(count).unwrap_or_default()) };
        let is_there = |result: &&sys::cublasLtMatmulHeuristicResult_t| result.state.result().is_ok();
        Ok(found.iter().filter(is_there).map(|result| result.algo).collect())
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        // SAFETY: the handle is used nowhere else.
        given_back(unsafe { lt::destroy_handle(self.handle) });
    }
}

impl Operation {
    fn new(compute: sys::cublasComputeType_t, product: &Product, kind: &Kind) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB,
        };
        let operation = Self(lt::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?);
        let [a, b] = [&product.a, &product.b].map(|matrix| u32::from(matrix.transposed));
        operation.set(CUBLASLT_MATMUL_DESC_TRANSA, &a)?;
        operation.set(CUBLASLT_MATMUL_DESC_TRANSB, &b)?;
        operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &kind.epilogue.0)?;
        Ok(operation)
    }

    /// Names the epilogue's vector, whose elements are taken to be of the kind of the result's.
    fn point_to(&self, vector: u64) -> Result<(), CublasError> {
        self.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector)
    }

    fn set<T: Copy>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), CublasError> {
        let place = std::ptr::from_ref(value).cast();
        // SAFETY: the description lives, and the value is copied.
        unsafe { lt::set_matmul_desc_attribute(self.0, attribute, place, size_of::<T>()) }
    }
}

impl Layout {
    /// A matrix of so many rows and columns as it is meant: stored as its transpose, where that is.
    fn new(matrix: &Matrix, rows: usize, columns: usize) -> Result<Self, CublasError> {
        let [rows, columns] = if matrix.transposed { [columns, rows] } else { [rows, columns] };
        let kind = match matrix.element {
            Element::F32 => sys::cudaDataType_t::CUDA_R_32F,
            Element::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Element::F16 => sys::cudaDataType_t::CUDA_R_16F,
        };
        lt::create_matrix_layout(kind, rows as u64, columns as u64, matrix.leading as i64).map(Self)
    }
}

impl Preference {
    fn new(kind: &Kind) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        };
        let preference = Self(lt::create_matmul_pref()?);
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &REDUCTIONS)?;
        let [a, b, c] = kind.matrices.map(|(.., alignment)| alignment as u32);
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c)?;
        Ok(preference)
    }

    fn set<T: Copy>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<(), CublasError> {
        let place = std::ptr::from_ref(value).cast();
        // SAFETY: the preference lives, and the value is copied.
        unsafe { lt::set_matmul_pref_attribute(self.0, attribute, place, size_of::<T>()) }
    }
}

macro_rules! give_back {
    ($($owner:ty: $destroy:path),*) => {$(
        impl Drop for $owner {
            fn drop(&mut self) {
                // SAFETY: made by its only constructor, and given back once.
                given_back(unsafe { $destroy(self.0) });
            }
        }
    )*};
}
give_back!(Operation: lt::destroy_matmul_desc, Layout: lt::destroy_matrix_layout, Preference: lt::destroy_matmul_pref);

/// Says so where cuBLASLt does not take something back: nothing else comes of it.
fn given_back(result: Result<(), CublasError>) {
    if let Err(error) = result {
        say(&format!("warning: cuBLASLt takes something not back: {:?}", error.0));
    }
}

/// The largest power of two that divides an address, as far as that matters.
fn alignment(address: u64) -> u64 {
    1 << address.trailing_zeros().min(MOST_ALIGNED.trailing_zeros())
}

fn refused(doing: &'static str) -> impl Fn(CublasError) -> DeviceError {
    move |error| DeviceError::Failed { doing, problem: format!("{:?}", error.0) }
}
