//! What is done with each command of the documents: which are run, and how; which cannot be, and why.
//!
//! A command of a block that is not named here fails the test, except in documents of which all is run as it stands.

/// One thing to do about a command.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Run it, with these words behind it; it must succeed.
    Run(&'static str),
    /// Run it; it must end with this exit code.
    Ends(u8),
    /// Run it, and compare what it prints with what the document says, numbers aside.
    Prints,
    /// Run this before it: what the document presumes.
    First(&'static str),
    /// Run it in so many terminals of its own, with these words behind it.
    Terminals(usize, &'static str),
    /// Run this, which the document presumes, in a terminal of its own.
    Beside(&'static str),
    /// Wait until the first terminal says this.
    Await(&'static str),
    /// Press Ctrl-C in the first terminal, and wait for all of them.
    Stop,
    /// Wait for all terminals.
    Wait,
    /// It cannot be run here, for this reason; what can be checked of it is.
    Cannot(&'static str),
}
use Step::{Await, Beside, Cannot, Ends, First, Prints, Run, Stop, Terminals, Wait};

/// A command, by how it begins, and what is done about it.
pub type Account = (&'static str, &'static [Step]);

/// What is put in the place of what, in commands that are run or parsed. In this order.
pub const SUBSTITUTIONS: [(&str, &str); 23] = [
    ("michiyasunaga/BioLinkBERT-large", "model"),
    ("$MODEL", "model"),
    ("10.0.0.1:29400", "127.0.0.1:{port}"),
    ("0.0.0.0:29400", "127.0.0.1:{port}"),
    ("localhost:29400", "127.0.0.1:{port}"),
    ("127.0.0.1:29400", "127.0.0.1:{port}"),
    ("node1:29400", "127.0.0.1:{port}"),
    ("--host 10.0.0.1", "--host 127.0.0.1"),
    ("--host node1", "--host 127.0.0.1"),
    ("node1 slots=4\\nnode2 slots=4", "127.0.0.1 slots=2"),
    ("medley-logs/node1.keys/", "keys/"),
    ("medley-ssh hosts.txt", "medley-ssh --port {port} hosts.txt"),
    ("--credentials viewer", "--credentials keys/viewer"),
    ("--credentials operator", "--credentials keys/operator"),
    ("--master-addr node1", "--master-addr 127.0.0.1:{port}"),
    ("--model DIR", "--model out"),
    ("FILE", "test.jsonl"),
    ("medley serve FLAGS --workers 4", "medley serve FLAGS --workers 4 --listen 127.0.0.1:{port}"),
    ("FLAGS", "{flags}"),
    (" DIR", " pages"),
    ("IN OUT", "pytorch_model.bin converted.safetensors"),
    ("medley train … ", "medley train {flags} "),
    ("--premise … --hypothesis …", "--premise a --hypothesis b"),
];

/// `FLAGS`: a run of 13 updates.
pub const FLAGS: &str = "--model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64 \
    --per_device_train_batch_size 8 --num_train_epochs 1 --threads 1 --overwrite_output_dir --output_dir run";

/// Words that make [`FLAGS`] a run that goes on until somebody ends it; one that keeps all of its checkpoints would be
/// refused where the disk has no room for 20,000 of them.
pub const ENDLESS: &str = "--max_steps 10000000 --save_total_limit 1";

const CARGO: Step = Cannot("cargo builds these programs and runs this test");
const CLUSTER: Step = Cannot("a cluster");
const PEERS: Step = Cannot("PyTorch, and minutes to hours");
const SLURM: Step = Cannot("a machine under Slurm; deploy/slurm/test has one");

const README: &[Account] = &[
    (
        "cargo build --release && target/release/medley quickstart",
        &[
            CARGO,
            First("target/release/medley quickstart --prepare_only 2>said"),
            First("$(grep '  medley train' said) --max_steps 2 --threads 1"),
        ],
    ),
    ("cargo test --release --locked --workspace", &[CARGO]),
    ("target/release/medley train --model_name_or_path michi", &[Run("--max_steps 2 --threads 1")]),
    ("medley train --help", &[Run("")]),
    ("medley init-certs keys", &[Run("")]),
    ("medley serve FLAGS", &[Terminals(1, "{endless}"), Await("listens on")]),
    ("medley-worker --coordinator", &[Terminals(2, "--threads 1"), Await("update 1/")]),
    ("medley status --coordinator", &[Terminals(1, "")]),
    ("medley checkpoint --coordinator", &[Run(""), Stop]),
    ("medley-worker --print-env", &[First("MEDLEY_COORDINATOR=127.0.0.1:1 medley-worker --print-env"), Run("")]),
    ("medley predict --model DIR FILE", &[Run("")]),
    ("medley evaluate --model DIR FILE", &[Run("")]),
    ("medley plan FLAGS", &[Run("")]),
    ("medley convert IN OUT", &[First("cp {fixtures}/tiny-bert/legacy_pytorch_model.bin pytorch_model.bin"), Run("")]),
    ("medley completions bash", &[Run("")]),
    ("medley man DIR", &[Run("")]),
    ("medley report out", &[Prints]),
    (
        "medley compare seed-1",
        &[
            First(
                "for run in seed-1 seed-2 lr-1e-4; do medley train {flags} --max_steps 2 --output_dir $run || exit; done",
            ),
            Prints,
        ],
    ),
    ("medley train --model_name_or_path $MODEL", &[First("rm -r out"), Run("--threads 1")]),
    (
        "medley train … --workers 3 --chaos",
        &[Run("--max_steps 30 --save_steps 25 --do_predict --test_file test.jsonl")],
    ),
    (
        "medley verify out",
        &[
            First(
                "rm -r out; medley train {flags} --num_train_epochs 2 --save_steps 10 --output_dir out --do_predict \
             --test_file test.jsonl",
            ),
            Prints,
        ],
    ),
    ("medley replay out", &[Prints]),
    ("sed -i", &[Ends(65)]),
];

const DEPLOY: &[Account] = &[
    ("cargo build --release", &[CARGO]),
    ("deploy/cuda/build", &[Cannot("NVIDIA's libraries, gigabytes of them")]),
    ("medley train FLAGS", &[Run("")]),
    ("cargo build --release", &[CARGO]),
    (
        "deploy/launch/medley-copy",
        &[
            Cannot("other machines; deploy/launch/test-sshd has them"),
            First("rm -rf keys; medley init-certs keys --host 127.0.0.1"),
        ],
    ),
    ("target/release/medley serve FLAGS", &[Terminals(1, ""), Await("listens on")]),
    ("target/release/medley-worker", &[Terminals(1, "--threads 1")]),
    (
        "medley/medley-worker",
        &[
            First("mkdir medley; cp -r keys/worker medley; ln -s {programs}/medley-worker medley"),
            Terminals(1, "--threads 1"),
            Wait,
        ],
    ),
    ("printf", &[Run("")]),
    ("medley-ssh hosts.txt", &[Run("")]),
    ("torchrun --nproc-per-node 4", &[Run("")]),
    ("sbatch --gpus-per-node", &[SLURM]),
    ("sbatch --nodes", &[SLURM]),
    ("deploy/docker/push", &[Cannot("docker and a registry; deploy/docker/test has both")]),
    ("kubectl apply -k", &[CLUSTER]),
    ("VIEWER=viewer", &[CLUSTER]),
    ("deploy/kubernetes/from-registry", &[CLUSTER]),
    ("kubectl logs", &[CLUSTER]),
];

const CUDA: &[Account] = &[
    ("deploy/cuda/build --check", &[Cannot("NVIDIA's libraries, gigabytes of them")]),
    ("deploy/cuda/check", &[Cannot("a GPU")]),
    ("pip install", &[Cannot("NVIDIA's libraries, gigabytes of them")]),
    ("export LD_LIBRARY_PATH", &[Cannot("NVIDIA's libraries, gigabytes of them")]),
];

const DOCKER: &[Account] = &[
    ("deploy/docker/push", &[Cannot("docker and a registry; deploy/docker/test has both")]),
    ("medley init-certs keys", &[Cannot("root: the files are given to another user")]),
    ("docker network", &[Cannot("docker")]),
    ("safe=", &[Cannot("docker")]),
    ("docker run -d --name coordinator", &[Cannot("docker")]),
    ("docker run -d --name worker1", &[Cannot("docker")]),
    ("docker stop", &[Cannot("docker")]),
];

const KUBERNETES: &[Account] = &[
    ("deploy/docker/push REGISTRY", &[Cannot("docker and a registry")]),
    ("kubectl apply -k", &[CLUSTER]),
    ("VIEWER=viewer", &[CLUSTER]),
    ("deploy/kubernetes/from-registry", &[CLUSTER]),
    ("kubectl logs", &[CLUSTER]),
    ("deploy/docker/push REGISTRY cuda", &[Cannot("docker and a registry")]),
    ("kubectl apply -k", &[CLUSTER]),
    ("VIEWER=viewer", &[CLUSTER]),
    ("deploy/kubernetes/copy-data", &[CLUSTER]),
    ("deploy/kubernetes/from-registry", &[CLUSTER]),
    ("kubectl logs", &[CLUSTER]),
    ("kubectl apply -n medley -f - <<'END'", &[CLUSTER]),
    (
        "medley status",
        &[
            First("medley init-certs keys --host 127.0.0.1"),
            Beside(
                "medley serve {flags} {endless} --workers 2 --listen 127.0.0.1:{port} --credentials keys/coordinator",
            ),
            Await("listens on"),
            Beside("medley-worker --coordinator 127.0.0.1:{port} --credentials keys/worker --threads 1"),
            Beside("medley-worker --coordinator 127.0.0.1:{port} --credentials keys/worker --threads 1"),
            Await("update 1/"),
            Terminals(1, ""),
        ],
    ),
    ("medley checkpoint", &[Run("")]),
    ("medley drain 2", &[Run("")]),
    ("medley stop", &[Run(""), Wait]),
    ("kubectl delete", &[CLUSTER]),
    ("deploy/kubernetes/check --crds", &[Cannot("the manifests' own checks are a step of .ci/run")]),
    ("deploy/kubernetes/sandbox-test", &[Cannot("root, and a cluster's programs")]),
];

const LAUNCH: &[Account] = &[
    ("medley-ssh [--bin FOLDER]", &[Cannot("what is typed is in deploy/README.md")]),
    (
        "medley status",
        &[
            First("medley init-certs keys --host 127.0.0.1"),
            Beside(
                "medley serve {flags} {endless} --workers 1 --listen 127.0.0.1:{port} --credentials keys/coordinator",
            ),
            Await("listens on"),
            Beside("medley-worker --coordinator 127.0.0.1:{port} --credentials keys/worker --threads 1"),
            Await("update 1/"),
            Terminals(1, ""),
        ],
    ),
    ("medley checkpoint", &[Run(""), Stop]),
    ("torchrun --nproc-per-node 4 --no-python medley-rank", &[Run("")]),
    ("medley init-certs keys", &[First("rm -r keys"), Run("")]),
    ("MEDLEY_KEYS=", &[Cannot("two machines, one command on each; deploy/launch/test-torchrun has them")]),
    ("medley serve FLAGS --workers 4 &", &[Run("")]),
];

const SLURM_PAGE: &[Account] = &[
    ("sbatch --gpus-per-node", &[SLURM]),
    ("sbatch --nodes", &[SLURM]),
    ("module load", &[SLURM]),
    ("export PATH", &[SLURM]),
    ("export LD_LIBRARY_PATH", &[SLURM]),
];

const PEERS_PAGE: &[Account] = &[
    ("cargo build --release", &[CARGO]),
    ("tests/peers/measure", &[PEERS]),
    ("tests/peers/measure --list", &[PEERS]),
    ("tests/peers/measure --only", &[PEERS]),
    ("tests/peers/measure --quick", &[PEERS]),
    ("tests/peers/measure --train_file", &[PEERS]),
    ("deploy/cuda/build", &[Cannot("NVIDIA's libraries, gigabytes of them")]),
    ("tests/peers/measure --device cuda", &[Cannot("a GPU")]),
    ("python3.11 -m venv", &[PEERS]),
    ("pip install -r tests/peers/requirements.txt", &[PEERS]),
    ("MODEL=", &[PEERS]),
    ("python tests/peers/interop.py", &[PEERS]),
    ("python tests/peers/interop.py", &[PEERS]),
    ("python tests/peers/compare.py step", &[PEERS]),
    ("python tests/peers/compare.py step", &[PEERS]),
    ("python tests/peers/compare.py train", &[PEERS]),
    ("python tests/peers/compare.py train", &[PEERS]),
    ("python tests/peers/compare.py train", &[Cannot("a GPU")]),
    ("python tests/peers/compare.py evaluate", &[PEERS]),
    ("python tests/peers/compare.py accuracy", &[PEERS]),
    ("python tests/peers/compare.py allreduce", &[PEERS]),
    ("python tests/peers/compare.py products", &[PEERS]),
    ("cargo build --release", &[CARGO]),
    ("python tests/peers/faults.py", &[PEERS]),
    ("python tests/peers/faults.py", &[PEERS]),
    ("python tests/peers/soak.py", &[PEERS]),
    ("python tests/peers/soak.py", &[PEERS]),
    ("cargo build --release", &[CARGO]),
    ("target/release/examples/worker_load", &[CARGO]),
    ("target/release/examples/updates", &[CARGO]),
    ("cargo bench", &[CARGO]),
    ("cargo bench", &[CARGO]),
    ("cargo bench", &[CARGO]),
    (".ci/counts", &[Cannot("valgrind; a step of .ci/run")]),
    ("pip install", &[Cannot("packages of PyPI")]),
    ("python tests/peers/foreign_clients.py", &[Cannot("gRPC for Python; a step of .ci/run")]),
    ("pip install", &[Cannot("packages of PyPI, and a browser")]),
    ("python tests/peers/live_page.py", &[Cannot("a browser")]),
    ("pip install", &[Cannot("packages of PyPI")]),
    ("python tests/peers/trackers.py", &[Cannot("TensorBoard and MLflow")]),
    ("pip install", &[PEERS]),
    ("python tests/peers/conversion.py", &[PEERS]),
];

/// The accounts of each document that has commands in blocks.
pub const ACCOUNTS: &[(&str, &[Account])] = &[
    ("README.md", README),
    ("CONTRIBUTING.md", &[("cargo build --release", &[CARGO]), ("cargo test", &[CARGO])]),
    ("deploy/README.md", DEPLOY),
    ("deploy/cuda/README.md", CUDA),
    ("deploy/docker/README.md", DOCKER),
    ("deploy/kubernetes/README.md", KUBERNETES),
    ("deploy/launch/README.md", LAUNCH),
    ("deploy/slurm/README.md", SLURM_PAGE),
    (
        "docs/tutorial.md",
        &[
            ("cargo build --release", &[CARGO]),
            ("medley train --config run.toml --from_scratch False", &[Cannot("the Hugging Face hub")]),
        ],
    ),
    ("tests/peers/README.md", PEERS_PAGE),
];

/// The document of which every command is run as it stands, and what it prints is compared.
pub const TRANSCRIPT: &str = "docs/tutorial.md";
