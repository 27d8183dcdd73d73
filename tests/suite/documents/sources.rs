//! What documents say of the repository's own sources: packages, tests by a part of their name, scripts and their flags.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::stage::ROOT;

/// Packages, and their folders.
const PACKAGES: [(&str, &str); 5] = [
    ("medley-common", "common"),
    ("medley-proto", "proto"),
    ("medley-coordinator", "coordinator"),
    ("medley-worker", "worker"),
    ("medley-tests", "tests"),
];

/// Checks what `cargo` is asked.
///
/// # Errors
/// There is no such package, example, bench, or test.
pub fn cargo(words: &[&str]) -> Result<(), String> {
    let value = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
    let package = value("-p").or(value("--package")).filter(|name| *name != "PACKAGE");
    let folders: Vec<&str> = match package {
        Some(name) => match PACKAGES.iter().find(|(known, _)| *known == name) {
            Some((_, folder)) => vec![folder],
            None => return Err(format!("there is no package {name}")),
        },
        None => PACKAGES.iter().map(|(_, folder)| *folder).collect(),
    };
    for (flag, places) in [("--example", "examples"), ("--bench", "benches")] {
        let is_in = |folder: &str, name: &str| is_program(&Path::new(ROOT).join(folder).join(places), name);
        if let Some(name) = value(flag).filter(|name| !folders.iter().any(|folder| is_in(folder, name))) {
            return Err(format!("there is no {flag} {name}"));
        }
    }
    let takes_value =
        |word: &str| ["-p", "--package", "--example", "--bench", "--test", "--bins", "build"].contains(&word);
    let mut free = (1..words.len()).filter(|at| !words[*at].starts_with('-') && !takes_value(words[at - 1]));
    match (words.first(), free.next().map(|at| words[at])) {
        (Some(&"test"), Some(filter)) if !["NAME"].contains(&filter) => test(&folders, filter),
        _ => Ok(()),
    }
}

/// Checks that a filter of `cargo test` finds a test in one of some folders.
///
/// # Errors
/// It finds none.
pub fn test(folders: &[&str], filter: &str) -> Result<(), String> {
    let found = folders.iter().any(|folder| tests(folder).iter().any(|name| name.contains(filter)));
    if found { Ok(()) } else { Err(format!("no test of {folders:?} has {filter:?} in its name")) }
}

/// The tests of a package: their files, as modules, and their names.
fn tests(package: &str) -> &'static [String] {
    static FOUND: OnceLock<Vec<(String, Vec<String>)>> = OnceLock::new();
    let all = FOUND.get_or_init(|| {
        PACKAGES.iter().map(|(_, folder)| ((*folder).to_owned(), tests_below(&Path::new(ROOT).join(folder)))).collect()
    });
    all.iter().find(|(folder, _)| folder == package).map_or(&[], |(_, names)| names)
}

fn tests_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(folder, ".rs") {
        let module = path.strip_prefix(folder).expect("below it").with_extension("").display().to_string();
        let text = std::fs::read_to_string(&path).expect("read a source");
        let names = text.lines().filter_map(|line| line.trim_start().split_once("fn ").map(|(_, name)| name));
        let names = names.map(|name| name.split(['(', '<']).next().unwrap_or_default());
        // One that stands for many: `mod x { ... }` and what macros make are found by the words that name them.
        found.extend(names.map(|name| format!("{}::{name}", module.replace('/', "::"))));
    }
    found
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// Checks that an example is there.
///
/// # Errors
/// No package has it.
pub fn example(name: &str) -> Result<(), String> {
    if PACKAGES.iter().any(|(_, folder)| is_program(&Path::new(ROOT).join(folder).join("examples"), name)) {
        Ok(())
    } else {
        Err(format!("there is no example {name}"))
    }
}

/// Whether a folder has a program of this name: a file, or a folder of its own.
fn is_program(folder: &Path, name: &str) -> bool {
    folder.join(format!("{name}.rs")).exists() || folder.join(name).join("main.rs").exists()
}

/// Checks a script of Python: that it is there, that Python can read it, and that it, or what it is made of, has the flags
/// and the parts that are named.
///
/// # Errors
/// What is missing.
pub fn python(words: &[&str]) -> Result<(), String> {
    let Some(script) = words.iter().find(|word| word.ends_with(".py")) else { return Ok(()) };
    let path = Path::new(ROOT).join(script);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{script}: {error}"))?;
    let folder = path.parent().expect("a folder");
    let imported = |file: &PathBuf| {
        let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        [format!("import {module}"), format!("from {module} ")].iter().any(|line| text.contains(line))
    };
    let parts = files(folder, ".py").into_iter().filter(imported);
    let parts: String = parts.map(|file| std::fs::read_to_string(file).expect("read a part")).collect();
    let has = |word: &str| [&text, &parts].iter().any(|text| text.contains(&format!("\"{word}\"")));
    let first = words.iter().skip_while(|word| *word != script).nth(1).filter(|word| !word.starts_with("--"));
    let flags = words.iter().filter(|word| word.starts_with("--")).chain(first);
    match flags.map(|flag| flag.split('=').next().unwrap_or_default()).find(|flag| !has(flag)) {
        Some(flag) => Err(format!("{script} has no {flag}")),
        None => Ok(()),
    }
}
