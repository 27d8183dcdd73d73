//! Why a set of flags is not a run.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The first thing that is wrong with a run's flags, and the way out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// A flag that every run needs is not given.
    #[error("{flag} is missing; {way_out}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// What to give.
        way_out: &'static str,
    },
    /// A flag is given without the one that it depends on.
    #[error("{flag} needs {needs}; {way_out}")]
    Needs {
        /// The flag that is given.
        flag: String,
        /// The flag that is not.
        needs: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// Faults that cannot be understood.
    #[error(transparent)]
    Chaos(#[from] super::ChaosError),
    /// Something about the schedule that makes no sense.
    #[error("--lr_scheduler_kwargs: {problem}")]
    Schedule {
        /// What.
        problem: String,
    },
    /// Checkpoints that are not evaluated, where the best is to be chosen.
    #[error(
        "--load_best_model_at_end needs every checkpoint evaluated: give --evaluation_strategy and --save_strategy the same \
         value, and with steps --save_steps a multiple of --eval_steps"
    )]
    Unmeasured,
    /// No task is asked for.
    #[error("nothing to do; give at least one of --do_train, --do_eval and --do_predict")]
    NothingToDo,
    /// A file that a flag names is not there.
    #[error("{flag} {}: no such file; check the name, and the folder that it is relative to", path.display())]
    NoFile {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A value lies outside its range.
    #[error("{flag} is {value}; expected {expected}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is allowed, and perhaps what to use instead.
        expected: String,
    },
    /// Two flags that exclude each other.
    #[error("{first} and {second} exclude each other; {way_out}")]
    Exclusive {
        /// One flag.
        first: &'static str,
        /// The other.
        second: String,
        /// Which to keep.
        way_out: &'static str,
    },
    /// More workers than lanes.
    #[error("--workers is {workers}, but {lanes} lanes keep at most {lanes} workers busy; use --lanes {enough}")]
    TooFewLanes {
        /// Workers.
        workers: u32,
        /// Lanes.
        lanes: u32,
        /// Lanes that would do.
        enough: u32,
    },
    /// An address that other machines reach, without consent.
    #[error(
        "--listen is {listen}, which other machines can reach; make certificates and tokens with `medley init-certs` \
         and name them with --credentials DIR, or listen on 127.0.0.1, or add --insecure where the network is trusted"
    )]
    Exposed {
        /// The address.
        listen: SocketAddr,
    },
    /// `--device cuda` where there is none.
    #[error(
        "--device is cuda, but no CUDA device can be used here; build a worker for one with deploy/cuda/build, or use \
         --device cpu"
    )]
    NoCuda,
    /// There are more workers than GPUs.
    #[error(
        "--workers {workers}, but this machine has {gpus} GPUs that a worker can use: use --workers auto or --device cpu"
    )]
    TooFewGpus {
        /// Workers asked for.
        workers: u32,
        /// GPUs of the machine.
        gpus: u32,
    },
    /// The training file has no rows.
    #[error("--train_file {} has no rows to train on", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// The global batch does not fit its number.
    #[error(
        "an update of {rows} rows is too large; lower --per_device_train_batch_size or --gradient_accumulation_steps"
    )]
    BatchTooLarge {
        /// Rows of the global batch.
        rows: u128,
    },
    /// More updates than a run may have.
    #[error("a run of {updates:e} updates is too long; at most {most:e} are allowed, so lower {flag}")]
    TooLong {
        /// Updates that were asked for.
        updates: f64,
        /// The limit.
        most: f64,
        /// The flag that asks for them.
        flag: &'static str,
    },
}
