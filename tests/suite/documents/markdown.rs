//! A document, taken apart: the commands it shows a reader, with what it says they print.

use std::path::Path;

/// Languages of fences that hold commands: in `console`, those after a `$`, each before what it prints.
const SHELLS: [&str; 4] = ["sh", "bash", "shell", "console"];
/// Languages of fences that hold none.
const OTHERS: [&str; 8] = ["", "text", "python", "json", "yaml", "toml", "mermaid", "rust"];
/// First words of a span of code that make it a command.
const PROGRAMS: [&str; 20] = [
    "medley",
    "medley-worker",
    "medley-ssh",
    "medley-rank",
    "medley-copy",
    "cargo",
    "python",
    "python3",
    "pip",
    "torchrun",
    "sbatch",
    "scancel",
    "scontrol",
    "kubectl",
    "docker",
    "faults.py",
    "push",
    "check",
    "ln",
    "ssh",
];
/// First folders of a span of code that make it a command of the repository.
const FOLDERS: [&str; 5] = ["target/release/", "deploy/", "tests/peers/", ".ci/", "proto/check"];

/// Folders of the repository.
const SOURCES: [&str; 7] = ["common", "coordinator", "deploy", "docs", "proto", "tests", "worker"];

/// A command of a document.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The document, from the repository's root.
    pub document: String,
    /// The line that it begins in, from 1.
    pub line: usize,
    /// The block that it is in, by the line of its fence; `None` for a span of code in a text.
    pub block: Option<usize>,
    /// The command: continued lines are one, comments are gone.
    pub text: String,
    /// What it prints, in `console`; the lines after [`Self::last`].
    pub output: Vec<String>,
    /// The last line of the command, from 1.
    pub last: usize,
}

impl Shown {
    /// Where it is, as a compiler would say.
    pub fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }
}

/// A block of another language.
#[derive(Debug, Clone)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// Its language.
    pub language: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// All Markdown that git knows below `root`, by its path from there. What a run leaves in the folder is no document of it.
pub fn documents(root: &Path) -> Vec<String> {
    let git = std::process::Command::new("git").args(["ls-files", "--", "*.md"]).current_dir(root).output();
    let listed = git.map(|git| String::from_utf8(git.stdout).expect("names in UTF-8")).unwrap_or_default();
    let listed: Vec<String> = listed.lines().map(ToOwned::to_owned).collect();
    // Where this is no checkout, the folders of the sources are looked through.
    let mut found = if listed.is_empty() { walked(root) } else { listed };
    found.retain(|name| root.join(name).is_file());
    found.sort();
    found
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("read a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && (folder != root || SOURCES.contains(&name.as_str())) {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(root).expect("below the root").display().to_string());
            }
        }
    }
    found
}

/// The blocks of a text.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                let language = language.trim().to_owned();
                open = Some(Block { line: index + 1, language, lines: Vec::new() });
            }
            (Some(_), Some(block)) => found.push(block),
            (None, Some(mut block)) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    found
}

/// The commands of a document, in its order.
///
/// # Errors
/// A fence of a language of which it is not known whether it holds commands.
pub fn commands(document: &str, text: &str) -> Result<Vec<Shown>, String> {
    let mut found = spans(document, text);
    for block in blocks(text) {
        if SHELLS.contains(&block.language.as_str()) {
            found.extend(in_block(document, &block));
        } else if !OTHERS.contains(&block.language.as_str()) {
            let (line, language) = (block.line, &block.language);
            return Err(format!(
                "{document}:{line}: a block of \"{language}\"; expected one of {SHELLS:?}, whose commands are run, or \
                 {OTHERS:?}"
            ));
        }
    }
    found.sort_by_key(|shown| shown.line);
    Ok(found)
}

fn in_block(document: &str, block: &Block) -> Vec<Shown> {
    let prompt = if block.language == "console" { "$ " } else { "" };
    let mut found: Vec<Shown> = Vec::new();
    let mut at = 0;
    while at < block.lines.len() {
        let line = &block.lines[at];
        let number = block.line + 1 + at;
        at += 1;
        let Some(typed) = line.strip_prefix(prompt) else {
            if let Some(shown) = found.last_mut() {
                shown.output.push(line.clone());
            }
            continue;
        };
        let mut text = typed.to_owned();
        while at < block.lines.len() && goes_on(&text) {
            text = match text.strip_suffix('\\') {
                Some(before) => format!("{before}{}", block.lines[at].trim_start()),
                None => format!("{text}\n{}", block.lines[at]),
            };
            at += 1;
        }
        let text = without_comment(&text).trim().to_owned();
        if !text.is_empty() {
            let (document, last) = (document.to_owned(), block.line + at);
            let block = Some(block.line);
            found.push(Shown { document, line: number, block, text, output: Vec::new(), last });
        }
    }
    found
}

/// Whether a shell would ask for another line.
fn goes_on(text: &str) -> bool {
    let opened = ["<<'END'", "<<END"].iter().any(|here| text.contains(here));
    let in_loop = text.contains("; do") && !text.ends_with("done");
    text.ends_with('\\') || in_loop || (opened && text.lines().last() != Some("END")) || quote_at_end(text).is_some()
}

/// The quote that is open at the end of a text.
fn quote_at_end(text: &str) -> Option<char> {
    let mut open = None;
    let mut before = ' ';
    for letter in without_comment(text).chars() {
        match open {
            None if letter == '\'' || letter == '"' => open = Some(letter),
            Some(quote) if letter == quote && before != '\\' => open = None,
            _ => {}
        }
        before = letter;
    }
    open
}

/// A command without the comment behind it.
fn without_comment(text: &str) -> String {
    let (mut open, mut before) = (None, ' ');
    for (at, letter) in text.char_indices() {
        match open {
            None if letter == '#' && (before == ' ' || before == '\n') && !text[at..].contains('\n') => {
                return text[..at].trim_end().to_owned();
            }
            None if letter == '\'' || letter == '"' => open = Some(letter),
            Some(quote) if letter == quote && before != '\\' => open = None,
            _ => {}
        }
        before = letter;
    }
    text.to_owned()
}

/// Spans of code in the text that are commands with words of their own.
fn spans(document: &str, text: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut inside = false;
    let prose: Vec<&str> = text
        .lines()
        .map(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            if inside || fence { "" } else { line }
        })
        .collect();
    let prose = prose.join("\n");
    let mut pieces = prose.split('`');
    let mut line = 1 + pieces.next().map_or(0, |piece| piece.matches('\n').count());
    let mut is_code = true;
    for piece in pieces {
        let text = piece.split_whitespace().collect::<Vec<_>>().join(" ");
        if is_code && is_command(&text) {
            let document = document.to_owned();
            let last = line + piece.matches('\n').count();
            found.push(Shown { document, line, block: None, text, output: Vec::new(), last });
        }
        line += piece.matches('\n').count();
        is_code = !is_code;
    }
    found
}

fn is_command(text: &str) -> bool {
    let mut words = text.split(' ').skip_while(|word| is_assignment(word));
    let (Some(first), second) = (words.next(), words.next()) else { return false };
    let scripts = FOLDERS.iter().any(|folder| first.starts_with(folder));
    second.is_some() && (PROGRAMS.contains(&first) || scripts)
}

/// Whether a word sets a variable for the command behind it.
pub fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
}
