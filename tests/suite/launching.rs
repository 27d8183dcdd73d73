//! Workers that torchrun, Kubeflow, Slurm and Kubernetes start: by variables of their environment.

use medley_tests::{Ended, Running, Scratch};

use crate::RECIPE;
use crate::serving::address;

/// `medley-worker` with `arguments`, among `variables`, as pairs with `=`, split at spaces.
fn worker(variables: &str, arguments: &str) -> Ended {
    let variables: Vec<_> = variables.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    Running::start_among(&variables, "medley-worker", &arguments, &std::env::temp_dir()).end()
}

/// What a shell would take from `--print-env`, without spaces around the comments.
fn understood(variables: &str, arguments: &str) -> Vec<String> {
    let shown = worker(variables, &format!("{arguments} --print-env")).expect(0).stdout;
    let line = |line: &str| line.split('#').map(str::trim).collect::<Vec<_>>().join(" # ");
    shown.lines().map(line).filter(|line| !line.starts_with(" # threads")).collect()
}

#[test]
fn what_a_worker_understands_is_shown_with_its_source() {
    let torchrun = "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node1 MASTER_PORT=29500 \
        TORCHELASTIC_RUN_ID=x";
    let slurm = "SLURM_JOB_NODELIST=gpu[07-08] SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_LOCALID=1 JOB_COMPLETION_INDEX=9";
    let shown = understood(&format!("{slurm} {torchrun} MEDLEY_TOKEN=s3cret"), "");
    assert_eq!(shown[0], "MEDLEY_COORDINATOR=node1:29400 # MASTER_ADDR, Medley's port (MASTER_PORT is torchrun's own)");
    assert_eq!(shown[1..4], ["RANK=1 # RANK", "WORLD_SIZE=2 # WORLD_SIZE", "LOCAL_RANK=1 # LOCAL_RANK"]);
    assert!(shown.iter().any(|line| line.contains("MEDLEY_TOKEN is set")) && !shown.concat().contains("s3cret"));
    let shown = understood(slurm, "");
    assert_eq!(shown[0], "MEDLEY_COORDINATOR=gpu07:29400 # SLURM_JOB_NODELIST, Medley's port");
    assert_eq!(shown[1..4], ["RANK=3 # SLURM_PROCID", "WORLD_SIZE=4 # SLURM_NTASKS", "LOCAL_RANK=1 # SLURM_LOCALID"]);
    let shown = understood("PET_MASTER_ADDR=job-0 PET_MASTER_PORT=7 PET_NODE_RANK=1 JOB_COMPLETION_INDEX=9", "");
    assert_eq!(shown[..2], ["MEDLEY_COORDINATOR=job-0:7 # PET_MASTER_ADDR, PET_MASTER_PORT", "RANK=1 # PET_NODE_RANK"]);
    let shown = understood(&format!("{torchrun} MEDLEY_COORDINATOR=here:1"), "");
    assert_eq!(shown[0], "MEDLEY_COORDINATOR=here:1 # MEDLEY_COORDINATOR");
    let shown = understood("MEDLEY_COORDINATOR=here:1 JOB_COMPLETION_INDEX=9", "--coordinator there:2 --local_rank 5");
    assert_eq!(shown[0], "MEDLEY_COORDINATOR=there:2 # --coordinator");
    assert_eq!((&*shown[1], &*shown[3]), ("RANK=9 # JOB_COMPLETION_INDEX", "LOCAL_RANK=5 # --local_rank"));
}

#[test]
fn a_variable_that_makes_no_sense_is_named_with_its_value() {
    worker("RANK=first", "--print-env").expect(78).says(&["RANK is \"first\"", "a number from 0"]);
    worker("RANK=2 WORLD_SIZE=2", "--coordinator x:1")
        .expect(78)
        .says(&["the rank is 2 (RANK)", "2 workers (WORLD_SIZE)"]);
    worker("MEDLEY_COORDINATOR=nowhere", "")
        .expect(78)
        .says(&["MEDLEY_COORDINATOR is \"nowhere\"", "a host and a port"]);
    worker("", "--coordinator nowhere").expect(64).says(&["nowhere", "a host and a port"]);
    worker("MEDLEY_COORDINATOR= MASTER_ADDR=", "").expect(64).says(&["--coordinator HOST:PORT", "MEDLEY_COORDINATOR"]);
}

/// As torch's own launcher, or a job script, starts them: no flag at all.
#[test]
fn workers_take_part_by_their_environment_alone() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} --num_train_epochs 1 --workers 2 --listen 127.0.0.1:0"));
    let address = address(&mut run);
    let (host, port) = address.rsplit_once(':').unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let start = |rank: &str| {
        let variables = [
            ("MASTER_ADDR", host),
            ("MASTER_PORT", port),
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
        ];
        Running::start_among(&variables, "medley-worker", &[], elsewhere.path())
    };
    let workers = ["0", "1"].map(start);
    run.end().expect(0);
    for worker in workers {
        worker.end().expect(0);
    }
    let local = Scratch::new(100);
    local.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    assert_eq!(scratch.sha256("out/model.safetensors"), local.sha256("out/model.safetensors"));
}

/// What is around `medley train`, as in a task of a job, is not about the workers that it starts.
#[test]
fn a_launcher_on_this_machine_keeps_its_surroundings_from_its_workers() {
    let scratch = Scratch::new(20);
    let variables = [
        ("RANK", "first"),
        ("MEDLEY_COORDINATOR", "nowhere:1"),
        ("MEDLEY_CREDENTIALS", "no-such-folder"),
        ("SLURM_LOCALID", "x"),
        ("SLURM_CPUS_PER_TASK", "0"),
    ];
    let train = format!("train {RECIPE} --num_train_epochs 1 --workers 2");
    let arguments: Vec<_> = train.split_whitespace().collect();
    let folder = scratch.path("");
    Running::start_among(&variables, "medley", &arguments, &folder).end().expect(0);
}
