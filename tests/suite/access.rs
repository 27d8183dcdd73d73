//! Who may take part in a run that other machines reach, and who may see it.

use medley_tests::{Running, Scratch, http};

use crate::RECIPE;
use crate::serving::address;

#[test]
fn only_who_has_the_credentials_takes_part_or_looks() {
    let scratch = Scratch::new(100);
    scratch.run("init-certs keys --host node1").expect(0).says(&["made keys", "keys/ca.key"]);
    scratch.run("init-certs others").expect(0);
    let serve = format!("serve {RECIPE} --num_train_epochs 1 --workers 1 --listen 0.0.0.0:0");
    scratch.run(&serve).expect(64).says(&["other machines can reach", "medley init-certs", "--insecure"]);
    scratch.run(&format!("{serve} --credentials keys/worker")).expect(78).says(&["has no tls.crt"]);
    let mut open = scratch.start(&format!("{serve} --insecure --output_dir open"));
    open.wait_for("warning: --insecure: whoever reaches 0.0.0.0:");
    drop(open);

    let mut run = scratch.start(&format!("{serve} --credentials keys/coordinator"));
    let port = address(&mut run).rsplit_once(':').unwrap().1.to_owned();
    let try_in = |credentials: &str| {
        let line = format!("--coordinator 127.0.0.1:{port} --threads 1 --connect_timeout 1 {credentials}");
        scratch.start_worker(&line).end()
    };
    let refused = try_in("");
    assert_ne!(refused.code, Some(0));
    refused.says(&["--credentials"]);
    try_in("--credentials keys/viewer").expect(78).says(&["role worker"]);
    assert_ne!(try_in("--credentials others/worker").says(&["certificate"]).code, Some(0));
    let status = |credentials: &str| scratch.run(&format!("status --coordinator localhost:{port} {credentials}"));
    assert_ne!(status("").says(&["--credentials"]).code, Some(0));
    assert_ne!(status("--credentials keys/worker").says(&["role viewer"]).code, Some(0));
    assert!(status("--credentials keys/viewer").expect(0).stdout.contains("gathering"));
    // A host that the certificate does not name.
    let other = scratch.run(&format!("status --coordinator 127.0.0.2:{port} --credentials keys/viewer"));
    assert_ne!(other.says(&["certificate"]).code, Some(0));
    assert!(status("--credentials keys/operator").expect(0).stdout.contains("gathering"));

    try_in("--credentials keys/worker").expect(0);
    run.end().expect(0);
    let local = Scratch::new(100);
    local.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    assert_eq!(scratch.sha256("out/model.safetensors"), local.sha256("out/model.safetensors"));
}

/// Not in what is said, nor what is shown of the run, nor what it writes, nor the command lines of its processes.
#[test]
fn tokens_are_shown_nowhere() {
    let scratch = Scratch::new(100);
    scratch.run("init-certs keys").expect(0);
    let serve = format!("serve {RECIPE} --num_train_epochs 100 --save_strategy no --workers 1 --listen 127.0.0.1:0");
    let serve = format!("{serve} --credentials keys/coordinator --http_listen 127.0.0.1:0");
    let mut run = scratch.start(&serve);
    let probes = crate::probes::port(&mut run);
    let address = address(&mut run);
    let worker = scratch.start_worker(&format!("--coordinator {address} --threads 1 --credentials keys/worker"));
    run.wait_for("update 1/");
    let command_lines = [run.pid(), worker.pid()].map(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        String::from_utf8_lossy(&words).into_owned()
    });
    let status = scratch.run(&format!("status --json --coordinator {address} --credentials keys/viewer")).expect(0);
    let pages = ["/metrics", "/"].map(|path| http::get(&probes, path).body);
    let ends = [run.end().expect(0), worker.end().expect(0), status];
    let said = ends.iter().flat_map(|ended| [ended.stdout.clone(), ended.stderr.clone()]);
    let written = ["ledger.jsonl", "medley_run.json"].map(|file| scratch.read(&format!("out/{file}")));
    let all = said.chain(command_lines).chain(pages).chain(written).collect::<Vec<_>>().join("\n");
    for role in ["worker", "viewer", "operator"] {
        let token = scratch.read(&format!("keys/{role}/token"));
        assert!(token.trim().len() >= 32 && !all.contains(token.trim()), "the token of the role {role} is shown");
    }
}

#[test]
fn certificates_of_clients_are_asked_for_where_they_are_mutual() {
    let scratch = Scratch::new(100);
    scratch.run("init-certs keys --mutual").expect(0);
    let train = format!("train {RECIPE} --num_train_epochs 1 --workers 2 --credentials keys/coordinator");
    let mut run = scratch.start(&format!("{train} --num_train_epochs 10000 --save_strategy no --listen 0.0.0.0:0"));
    let address = address(&mut run).replace("0.0.0.0", "127.0.0.1");
    run.wait_for("update 1/");
    std::fs::create_dir(scratch.path("tokenonly")).unwrap();
    let token = scratch.read("keys/viewer/token");
    scratch.write("tokenonly/token", &token);
    scratch.write("tokenonly/ca.crt", &scratch.read("keys/ca.crt"));
    let status = |folder: &str| scratch.run(&format!("status --coordinator {address} --credentials {folder}"));
    assert_ne!(status("tokenonly").code, Some(0));
    status("keys/viewer").expect(0);
}

#[test]
fn on_one_machine_strangers_take_no_part_in_a_run() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 1"));
    let address = address(&mut run);
    let arguments = ["--coordinator", &address, "--threads", "1"];
    let stranger = Running::start("medley-worker", &arguments, tempfile::tempdir().unwrap().path());
    stranger.end().expect(78).says(&["token", "role worker"]);
}
