//! What the programs tell shells and readers about themselves: completions and manual pages.

use std::process::{Command, Output};

use medley_tests::Scratch;

/// What bash offers for `words`, the last of which is being typed, after it has sourced the script of `medley`.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, before) = (words.len() - 1, words[words.len() - 2]);
    let typed = format!(
        "source '{script}' && COMP_WORDS=({}) COMP_CWORD={last} && _{program} {program} '{}' '{before}' && \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words[last],
        program = words[0].replace('-', "__"),
    );
    let bash = bash(&typed);
    assert!(bash.status.success(), "{typed}\n{}", String::from_utf8_lossy(&bash.stderr));
    String::from_utf8(bash.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

fn bash(script: &str) -> Output {
    Command::new("bash").args(["--norc", "-c", script]).output().unwrap()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let scratch = Scratch::new(1);
    scratch.write("medley.bash", &scratch.run("completions bash").expect(0).stdout);
    let path = scratch.path("medley.bash").display().to_string();
    assert!(bash(&format!("bash -n '{path}'")).status.success());
    assert_eq!(offered(&path, &["medley", "tr"]), ["train"]);
    assert_eq!(offered(&path, &["medley", "train", "--lr_scheduler_t"]), ["--lr_scheduler_type"]);
    let decays = offered(&path, &["medley", "train", "--lr_scheduler_type", "cosine"]);
    assert_eq!(decays, ["cosine", "cosine_with_restarts"]);
    assert!(offered(&path, &["medley", "status", "--"]).contains(&"--watch".to_owned()));
    // What is typed at a prompt: the script binds the function to the program's name.
    let bound = bash(&format!("source '{path}' && complete -p medley"));
    assert!(String::from_utf8(bound.stdout).unwrap().contains("-F _medley"));
}

#[test]
fn every_shell_has_a_script_of_every_command() {
    let scratch = Scratch::new(1);
    for (shell, sign) in [("zsh", "#compdef medley"), ("fish", "complete -c medley")] {
        let script = scratch.run(&format!("completions {shell}")).expect(0).stdout;
        assert!(script.contains(sign), "{shell}");
        for command in ["train", "serve", "init-certs", "quickstart"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    scratch.run("completions csh").expect(64).says(&["'csh'"]);
    let worker = scratch.start_worker("--completions bash").end().expect(0).stdout;
    assert!(worker.contains("--collective_host"));
}

/// What is wrong with a page: each line is text, or a request that the man macros know.
fn complaints(page: &str) -> Vec<String> {
    const KNOWN: [&str; 11] = [".TH", ".SH", ".SS", ".TP", ".IP", ".PP", ".RS", ".RE", ".br", ".ie", ".el"];
    let is_known = |line: &&str| !line.starts_with('.') || KNOWN.iter().any(|known| line.starts_with(known));
    let mut wrong: Vec<String> = page.lines().filter(|line| !is_known(line)).map(ToOwned::to_owned).collect();
    for section in [".TH ", ".SH NAME\n", ".SH SYNOPSIS\n"] {
        if page.matches(section).count() != 1 {
            wrong.push(format!("{section:?} is not there once"));
        }
    }
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success());
    if has("groff") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.1");
        std::fs::write(&path, page).unwrap();
        let said = Command::new("groff").args(["-man", "-ww", "-z", "-Tascii"]).arg(path).output().unwrap();
        wrong.extend(String::from_utf8_lossy(&said.stderr).lines().map(ToOwned::to_owned));
    }
    wrong
}

#[test]
fn a_manual_page_for_every_command() {
    let scratch = Scratch::new(1);
    let main = scratch.run("man").expect(0).stdout;
    assert_eq!(complaints(&main), Vec::<String>::new());
    assert!(complaints(".TH a 1\n.XX\n").iter().any(|wrong| wrong == ".XX"), "the check finds what is wrong");
    scratch.run("man pages/man1").expect(0);
    let help = scratch.run("--help").expect(0).stdout;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = scratch.read(&format!("pages/man1/medley-{name}.1"));
        assert_eq!(complaints(&page), Vec::<String>::new(), "{name}");
    }
    let train = scratch.read("pages/man1/medley-train.1");
    assert!(train.contains("per_device_train_batch_size") && train.contains("Rows of a batch, shared by all workers"));
    assert_eq!(scratch.read("pages/man1/medley.1"), main);
    let worker = scratch.start_worker("--man").end().expect(0).stdout;
    assert_eq!(complaints(&worker), Vec::<String>::new());
    scratch.write("file", "");
    scratch.run("man file/man1").expect(78).says(&["file/man1"]);
}
