//! Orders to a run from elsewhere, and what viewers may ask beside the status.

use std::os::unix::process::CommandExt;
use std::process::Command;

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use medley_tests::{Scratch, binaries};

use crate::RECIPE;
use crate::probes::channel;
use crate::serving::address;

const EPOCHS: &str = "--num_train_epochs 20 --save_strategy steps --save_steps 50 --logging_steps 10";

/// The digest of the same run that nobody disturbs.
fn undisturbed() -> String {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {EPOCHS} --workers 1")).expect(0);
    scratch.sha256("out/model.safetensors")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_drained_the_run_stopped_and_the_result_the_same() {
    let scratch = Scratch::new(100);
    let train = format!("train {RECIPE} {EPOCHS} --workers 2");
    let mut run = scratch.start(&train);
    let address = address(&mut run);
    run.wait_for("update 1/");
    let shown = scratch.run(&format!("status --coordinator {address} --json")).expect(0);
    let status: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(status["run"].as_str().unwrap().len(), 64);
    assert!(status["phase"] == "training" && status["epoch"].as_f64().unwrap() > 0.0, "{status}");
    assert!(status["eta_seconds"].as_f64().unwrap() > 0.0 && status["update"].is_u64(), "{status}");
    for (rank, worker) in status["workers"].as_array().unwrap().iter().enumerate() {
        assert!(worker["rank"] == rank && worker["device"].as_str().unwrap().contains("cpu"), "{worker}");
        assert!(worker["silent_seconds"].as_f64().unwrap() < 5.0 && worker["wait_share"].is_number(), "{worker}");
    }
    let worker = status["workers"][1]["worker"].as_u64().unwrap();
    scratch.run(&format!("drain 99 --coordinator {address}")).expect(64).says(&["there is no worker 99; there are "]);
    scratch.run(&format!("drain {worker} --coordinator {address}")).expect(0);
    // Asked twice is asked once, and it may have left by then.
    let again = scratch.run(&format!("drain {worker} --coordinator {address}"));
    assert!(again.code == Some(0) || again.stderr.contains("there is no worker"), "{again:?}");
    run.wait_for("left, as it was asked to end");
    run.wait_for("update 60:");
    let saved = scratch.run(&format!("checkpoint --coordinator {address}")).expect(0).stdout;
    let saved: u64 = saved.trim().strip_prefix("saved: checkpoint-").unwrap().parse().unwrap();
    assert!(saved >= 60 && scratch.path(&format!("out/checkpoint-{saved}/medley.json")).exists());
    let shown = scratch.run(&format!("status --coordinator {address} --json")).expect(0);
    let status: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert!(status["checkpoint_update"].as_u64() >= Some(saved), "{status}");
    let listed = scratch.run(&format!("checkpoints --coordinator {address} --json")).expect(0);
    let listed: serde_json::Value = serde_json::from_str(listed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&listed["id"], &listed["update"]), (&"checkpoint-50".into(), &50.into()));
    assert!(listed["bytes"].as_u64().unwrap() > 100_000 && listed["parameters"].as_str().unwrap().len() == 64);
    let mut viewer = StatusServiceClient::new(channel(&address).await);
    let report = viewer.get_report(v1::GetReportRequest {}).await.unwrap().into_inner().report.unwrap();
    assert_eq!(report.log.iter().map(|line| line.update).take(3).collect::<Vec<_>>(), [10, 20, 30]);
    assert!(report.log.iter().all(|line| line.loss.is_finite()) && report.summary.is_none());
    scratch.run(&format!("stop --coordinator {address}")).expect(0);
    run.end().expect(75).says(&["ends the run", "has worker"]);

    let mut again = scratch.start(&train);
    let address = crate::serving::address(&mut again);
    let mut viewer = StatusServiceClient::new(channel(&address).await);
    let report = viewer.get_report(v1::GetReportRequest {}).await.unwrap().into_inner().report.unwrap();
    assert_eq!(report.log.first().map(|line| line.update), Some(10), "the log from before is told as well");
    again.end().expect(0);
    assert_eq!(scratch.sha256("out/model.safetensors"), undisturbed());
}

#[test]
fn each_role_may_do_what_it_may_and_no_more() {
    let scratch = Scratch::new(100);
    scratch.run("init-certs keys").expect(0);
    let serve = format!("serve {RECIPE} --num_train_epochs 1 --workers 1 --listen 0.0.0.0:0");
    let mut run = scratch.start(&format!("{serve} --credentials keys/coordinator"));
    let port = address(&mut run).rsplit_once(':').unwrap().1.to_owned();
    let ask = |what: &str, role: &str| {
        scratch.run(&format!("{what} --coordinator localhost:{port} --credentials keys/{role}"))
    };
    for role in ["worker", "viewer"] {
        for order in ["stop", "checkpoint", "drain 1"] {
            assert_ne!(ask(order, role).says(&["not one of the role operator"]).code, Some(0));
        }
    }
    assert_ne!(ask("checkpoints", "worker").says(&["role viewer"]).code, Some(0));
    assert!(ask("checkpoints", "viewer").expect(0).stdout.contains("no checkpoint yet"));
    let shown = ask("status", "viewer").expect(0).stdout;
    assert!(shown.contains("waiting   for workers: 0 of 1 are ready"), "{shown}");
    assert_ne!(ask("checkpoint", "operator").says(&["nothing is trained yet"]).code, Some(0));
    ask("stop", "operator").expect(0);
    run.end().expect(75);
}

/// On one machine there are no credentials, and still no other user ends somebody's run.
#[test]
fn another_user_of_the_machine_gives_no_orders() {
    if !rustix::process::getuid().is_root() {
        eprintln!("not checked: only root can call as another user");
        return;
    }
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 1"));
    let address = address(&mut run);
    run.wait_for("update 1/");
    // A copy, because others may not look into the folders that tests are built in.
    let medley = std::env::temp_dir().join(format!("medley-{}", std::process::id()));
    std::fs::copy(binaries().join("medley"), &medley).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(&medley);
        command.args(words).args(["--coordinator", &address]).uid(65_534).gid(65_534).current_dir("/");
        command.output().unwrap()
    };
    let (looked, stopped) = (as_nobody(&["status"]), as_nobody(&["stop"]));
    std::fs::remove_file(&medley).unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
    let refused = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(!stopped.status.success() && refused.contains("the user that started it"), "{refused}");
    scratch.run(&format!("stop --at_once --coordinator {address}")).expect(0);
    run.end().expect(75);
}
