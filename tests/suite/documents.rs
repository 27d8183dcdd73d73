//! Every command of a document is run here, or accounted for: `documents/accounts.rs` says what is done with which.

mod accounts;
mod checking;
mod line;
mod markdown;
mod sources;
mod stage;
mod transcript;
mod tutorial;

use std::path::Path;

use accounts::{ACCOUNTS, Account, Step, TRANSCRIPT};
use markdown::{Shown, commands, documents};
use stage::{ROOT, Stage};

fn text_of(document: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

fn accounts_of(document: &str) -> &'static [Account] {
    ACCOUNTS.iter().find(|(name, _)| *name == document).map_or(&[], |(_, accounts)| accounts)
}

/// A command, and what is done about it: nothing but a check where there is no account.
type Accounted<'a> = (Shown, Option<&'a [Step]>);

/// The commands of a document with what is done about each.
///
/// # Errors
/// Commands of blocks that nobody has accounted for, and accounts of commands that there are no more.
fn accounted<'a>(document: &str, text: &str, accounts: &'a [Account]) -> Result<Vec<Accounted<'a>>, String> {
    let mut open: Vec<&Account> = accounts.iter().collect();
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for shown in commands(document, text)? {
        // What cannot be run is accounted for where it is typed: a text may name it as often as it likes.
        let is_meant = |(start, steps): &&Account| {
            let typed = shown.block.is_some() || !steps.iter().any(|step| matches!(step, Step::Cannot(_)));
            typed && shown.text.starts_with(start)
        };
        let steps = open.iter().position(is_meant).map(|at| open.remove(at).1);
        if steps.is_none() && shown.block.is_some() && document != TRANSCRIPT {
            wrong.push(format!(
                "{}: nobody has accounted for this command: {}\n  Add how it is run to {document}'s list in \
                 tests/suite/documents/accounts.rs, in the document's order: (\"{}\", &[Run(\"\")]); or why it cannot be: \
                 &[Cannot(\"…\")].",
                shown.place(),
                shown.text,
                shown.text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
            ));
        }
        found.push((shown, steps));
    }
    let gone = open.iter().map(|(start, _)| {
        format!("{document} has no command (any more) that begins with: {start}\n  Take it out of tests/suite/documents/accounts.rs.")
    });
    wrong.extend(gone);
    if wrong.is_empty() { Ok(found) } else { Err(wrong.join("\n")) }
}

/// Runs the commands of a document in its order, in one folder.
fn run(document: &str) {
    let mut stage = Stage::new();
    let commands =
        accounted(document, &text_of(document), accounts_of(document)).unwrap_or_else(|wrong| panic!("{wrong}"));
    for (shown, steps) in &commands {
        if let Err(wrong) = stage.perform(shown, steps.unwrap_or_default()) {
            panic!("{wrong}");
        }
    }
}

#[test]
fn every_command_is_accounted_for_and_makes_sense() {
    let (mut wrong, mut told) = (Vec::new(), Vec::new());
    let (mut run, mut all_commands) = (0, 0);
    let all = documents(Path::new(ROOT));
    for document in &all {
        match accounted(document, &text_of(document), accounts_of(document)) {
            Err(other) => wrong.push(other),
            Ok(commands) => {
                all_commands += commands.len();
                for (shown, steps) in commands {
                    let reason = steps.unwrap_or_default().iter().find_map(|step| match step {
                        Step::Cannot(reason) => Some(*reason),
                        _ => None,
                    });
                    match reason {
                        Some(reason) => told.push(format!("{} is not run ({reason})", shown.place())),
                        None if steps.is_some() || shown.block.is_some() => run += 1,
                        None => {}
                    }
                    let runs_as_it_stands = document == TRANSCRIPT && shown.block.is_some() && steps.is_none();
                    let checked = || checking::check(document, &shown.text);
                    if let Err(other) = if runs_as_it_stands { Ok(()) } else { checked() } {
                        wrong.push(format!("{}: {}\n  {other}", shown.place(), shown.text));
                    }
                }
            }
        }
    }
    let unknown = ACCOUNTS.iter().filter(|(name, _)| !all.iter().any(|document| document == name));
    wrong.extend(unknown.map(|(name, _)| format!("there is no document {name} (any more)")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{}", told.join("\n"));
    println!("{} documents: of {all_commands} commands, {run} are run, the others checked", all.len());
}

/// The README's table of features names a test in each row, by the package's letter and a part of its name.
#[test]
fn every_feature_names_tests_that_there_are() {
    const LETTERS: [(&str, &str); 4] = [("w", "worker"), ("c", "coordinator"), ("m", "common"), ("s", "tests")];
    let readme = text_of("README.md");
    let rows = readme.lines().skip_while(|line| *line != "| what | flag or command | test |").skip(2);
    let (mut seen, mut folder) = (0, "");
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        for (at, piece) in cell.split('`').enumerate() {
            if at % 2 == 0 {
                let letter = LETTERS.iter().find(|(letter, _)| piece.split([' ', ';']).any(|word| word == *letter));
                folder = letter.map_or(folder, |(_, folder)| folder);
            } else if piece.contains('/') {
                assert!(Path::new(ROOT).join(piece).exists(), "README.md: there is no {piece}\n{row}");
            } else {
                sources::test(&[folder], piece).unwrap_or_else(|wrong| panic!("README.md: {wrong}\n{row}"));
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "the table of features is not found: {seen} tests");
}

#[test]
fn the_readme() {
    run("README.md");
}

#[test]
fn running_it_elsewhere() {
    run("deploy/README.md");
}

#[test]
fn orders_through_a_forwarded_port() {
    run("deploy/kubernetes/README.md");
}

#[test]
fn launchers() {
    run("deploy/launch/README.md");
}

/// The check finds what it is there to find: each document with one thing wrong.
#[test]
fn what_is_wrong_with_a_document_is_found() {
    const GOOD: &str =
        "Type `medley verify out`.\n\n```sh\nmedley plan FLAGS   # a comment\ndeploy/docker/push REGISTRY\n```\n";
    const KNOWN: &[Account] = &[("medley plan", &[Step::Run("")]), ("deploy/docker/push", &[Step::Cannot("docker")])];
    let verdict = |text: &str, accounts| -> Result<(), String> {
        for (shown, _) in accounted("a.md", text, accounts)? {
            checking::check("a.md", &shown.text).map_err(|wrong| format!("{}: {wrong}", shown.place()))?;
        }
        Ok(())
    };
    assert_eq!(verdict(GOOD, KNOWN), Ok(()));
    for (right, mistyped, named) in [
        ("verify out", "verifi out", "a.md:1: "),
        ("plan FLAGS", "plan FLAGS --learning_rat 1", "a.md:4: "),
        ("deploy/docker/push", "deploy/docker/push --loud", "a.md:5: deploy/docker/push has no --loud"),
        ("docker/push", "docker/push deploy/gone", "a.md:5: there is no deploy/gone"),
        (
            "plan FLAGS",
            "plan FLAGS\nmedley report out",
            "a.md:5: nobody has accounted for this command: medley report out",
        ),
        ("```sh", "```fish", "a.md:3: a block of \"fish\""),
    ] {
        let wrong = verdict(&GOOD.replacen(right, mistyped, 1), KNOWN).expect_err(mistyped);
        assert!(wrong.contains(named), "{mistyped}: {wrong}");
    }
    let gone = verdict(&GOOD.replace("deploy/docker/push REGISTRY\n", ""), KNOWN).expect_err("an account of nothing");
    assert!(gone.contains("no command (any more) that begins with: deploy/docker/push"), "{gone}");
}
