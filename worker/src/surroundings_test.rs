use super::*;

fn variables(text: &str) -> Variables {
    text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.into(), b.into())).collect()
}

fn resolve(text: &str) -> Result<Surroundings, SurroundingsError> {
    Surroundings::resolve(&Given { cores: 8, ..Given::default() }, &variables(text))
}

/// `coordinator rank/world local-rank threads`, with `-` for what is not known.
fn brief(text: &str) -> String {
    let around = resolve(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let word = |told: Option<Told<u32>>| told.map_or("-".to_owned(), |told| told.value.to_string());
    let coordinator = around.coordinator.map_or("-".to_owned(), |told| told.value.to_string());
    let (rank, world, local) = (word(around.rank), word(around.world), word(around.local_rank));
    format!("{coordinator} {rank}/{world} {local} {}", around.threads.value)
}

const TORCHRUN: &str = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 GROUP_RANK=1 MASTER_ADDR=a MASTER_PORT=29500 \
    TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0 OMP_NUM_THREADS=1";
const KUBEFLOW: &str = "PET_NNODES=2 PET_NPROC_PER_NODE=1 PET_NODE_RANK=1 PET_MASTER_ADDR=job-node-0-0.job \
    PET_MASTER_PORT=29400 JOB_COMPLETION_INDEX=1";
const SLURM: &str =
    "SLURM_JOB_NODELIST=n[2-3] SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_NODEID=1 SLURM_JOB_ID=7";

#[test]
fn each_launcher_is_understood() {
    for (text, expected) in [
        ("", "- -/- - 8"),
        (TORCHRUN, "a:29400 3/4 1 4"),
        (KUBEFLOW, "job-node-0-0.job:29400 1/2 - 8"),
        (SLURM, "n2:29400 1/2 0 8"),
        ("JOB_COMPLETION_INDEX=5", "- 5/- - 8"),
        // Whoever starts processes by hand in torch's way, without torchrun: nobody else has the port.
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=10.0.0.1 MASTER_PORT=5000", "10.0.0.1:5000 0/2 - 8"),
        ("MASTER_ADDR=fd00::7", "[fd00::7]:29400 -/- - 8"),
        ("PET_NODE_RANK=1 PET_NPROC_PER_NODE=4 PET_NNODES=2 LOCAL_RANK=2", "- 6/8 2 8"),
        ("PET_NODE_RANK=1 PET_NPROC_PER_NODE=gpu PET_NNODES=1:4", "- -/- - 8"),
        ("PET_NODE_RANK=1 PET_NPROC_PER_NODE=auto PET_NNODES=2 LOCAL_RANK=1", "- -/- 1 8"),
        ("SLURM_CPUS_PER_TASK=3", "- -/- - 3"),
        ("LOCAL_WORLD_SIZE=16", "- -/- - 1"),
        ("SLURM_NODELIST=a,b", "a:29400 -/- - 8"),
        ("RANK= MASTER_ADDR= SLURM_PROCID=4", "- 4/- - 8"),
    ] {
        assert_eq!(brief(text), expected, "{text}");
    }
}

#[test]
fn torchrun_keeps_its_port_to_itself() {
    let at = |port: &str| brief(&TORCHRUN.replace("29500", port));
    assert!(at("29500").starts_with("a:29400 ") && at("40000").starts_with("a:29400 "));
    assert!(at("29400").starts_with("a:29401 "), "{}", at("29400"));
}

/// Of all launchers at once, those that come later in the table are not even read: their numbers are of other processes.
#[test]
fn the_first_source_that_is_set_decides() {
    let all = format!("{SLURM} {KUBEFLOW} {TORCHRUN}");
    assert_eq!(brief(&all), "a:29400 3/4 1 4");
    assert_eq!(brief(&format!("{SLURM} {KUBEFLOW}")), "job-node-0-0.job:29400 1/2 0 8");
    assert_eq!(
        brief(&format!("{all} SLURM_PROCID=x PET_NODE_RANK=x JOB_COMPLETION_INDEX=x SLURM_LOCALID=x")),
        brief(&all)
    );
    assert_eq!(brief(&format!("{all} MEDLEY_COORDINATOR=b:1 MASTER_PORT=x MASTER_ADDR=?")), "b:1 3/4 1 4");
    let given = Given {
        coordinator: Some("c:2".parse().unwrap()),
        local_rank: Some(9),
        threads: Some(5),
        credentials: Some("keys".into()),
        cores: 8,
    };
    let told = "MEDLEY_COORDINATOR=? LOCAL_RANK=? LOCAL_WORLD_SIZE=? MEDLEY_CREDENTIALS=other";
    let around = Surroundings::resolve(&given, &variables(told)).unwrap();
    let by = [around.coordinator.unwrap().by, around.local_rank.unwrap().by, around.threads.by];
    assert_eq!(by, ["--coordinator", "--local_rank", "--threads"]);
    assert_eq!(around.credentials.unwrap().value, PathBuf::from("keys"));
}

#[test]
fn what_makes_no_sense_is_named_with_its_value() {
    for (text, parts) in [
        ("RANK=x", ["RANK is \"x\"", "a number from 0"]),
        ("RANK=-1", ["RANK is \"-1\"", "from 0"]),
        ("RANK=4294967296", ["RANK is \"4294967296\"", "from 0"]),
        ("WORLD_SIZE=0", ["WORLD_SIZE is \"0\"", "from 1"]),
        ("LOCAL_RANK=1.5", ["LOCAL_RANK is \"1.5\"", "from 0"]),
        ("RANK=2 WORLD_SIZE=2", ["the rank is 2 (RANK)", "2 workers (WORLD_SIZE)"]),
        ("MASTER_ADDR=a MASTER_PORT=65536", ["MASTER_PORT is \"65536\"", "a port"]),
        ("MASTER_ADDR=a/b", ["MASTER_ADDR is \"a/b\"", "host"]),
        ("MEDLEY_COORDINATOR=a", ["MEDLEY_COORDINATOR is \"a\"", "a host and a port"]),
        ("PET_MASTER_ADDR=a PET_MASTER_PORT=0", ["PET_MASTER_PORT is \"0\"", "a port"]),
        ("PET_NODE_RANK=0 PET_NPROC_PER_NODE=many", ["PET_NPROC_PER_NODE is \"many\"", "auto"]),
        ("PET_NNODES=4:1", ["PET_NNODES is \"4:1\"", "a range"]),
        ("SLURM_JOB_NODELIST=n[1-2", ["SLURM_JOB_NODELIST is \"n[1-2\"", "host"]),
        ("SLURM_PROCID=a", ["SLURM_PROCID is \"a\"", "from 0"]),
        ("SLURM_CPUS_PER_TASK=0", ["SLURM_CPUS_PER_TASK is \"0\"", "from 1"]),
        ("JOB_COMPLETION_INDEX=last", ["JOB_COMPLETION_INDEX is \"last\"", "from 0"]),
    ] {
        let error = resolve(text).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
    let lost = resolve("RANK=0").unwrap();
    let error = lost.coordinator().unwrap_err().to_string();
    assert!(error.contains("--coordinator") && error.contains("MEDLEY_COORDINATOR"), "{error}");
}

/// Kubeflow may say more than fits in a number.
#[test]
fn numbers_that_overflow_are_not_known() {
    let far = "PET_NODE_RANK=4000000000 PET_NPROC_PER_NODE=4000000000 PET_NNODES=4000000000";
    assert_eq!(brief(far), "- -/- - 8");
}

#[test]
fn what_is_shown_can_be_read_by_a_shell_and_has_no_token() {
    let around = resolve(&format!("{TORCHRUN} MEDLEY_TOKEN=s3cret MEDLEY_CREDENTIALS=it's")).unwrap();
    let shown = around.to_string();
    assert!(!shown.contains("s3cret") && !format!("{around:?}").contains("s3cret"), "{shown}");
    let assigned: Vec<_> = shown.lines().filter_map(|line| line.split(" #").next()).map(str::trim_end).collect();
    let expected =
        ["MEDLEY_COORDINATOR=a:29400", "RANK=3", "WORLD_SIZE=4", "LOCAL_RANK=1", "MEDLEY_CREDENTIALS='it'\\''s'"];
    assert_eq!(assigned[..5], expected);
    assert!(shown.lines().skip(5).all(|line| line.starts_with('#')), "{shown}");
    assert!(resolve("").unwrap().to_string().lines().all(|line| line.starts_with("# ")));
}

proptest::proptest! {
    /// Whatever variables hold, there is an answer; what it shows is understood in the same way.
    #[test]
    fn any_environment_is_answered(values in proptest::collection::vec("[ -~]{0,12}|[0-9]{1,3}|n\\[[0-9,-]{1,6}\\]", 8)) {
        let names = ["MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "PET_NODE_RANK", "PET_NPROC_PER_NODE",
            "SLURM_JOB_NODELIST", "MEDLEY_COORDINATOR"];
        let variables: Variables = names.map(str::to_owned).into_iter().zip(values).collect();
        if let Ok(around) = Surroundings::resolve(&Given { cores: 1, ..Given::default() }, &variables) {
            let shown = around.to_string();
            let again = shown.lines().filter_map(|line| line.split_once('#')?.0.trim().split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let again = Surroundings::resolve(&Given { cores: 1, ..Given::default() }, &again).unwrap();
            assert_eq!(again.coordinator.map(|told| told.value), around.coordinator.map(|told| told.value));
            assert_eq!(again.rank.map(|told| told.value), around.rank.map(|told| told.value));
        }
    }
}
