//! A shell's line, taken apart as far as its words go.

/// The simple commands of a line, as words without quotes: of a list, a pipe, and inside `$( )`. Redirections are left out.
pub fn simple_commands(text: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    let text = text.split_once("<<").map_or(text, |(line, _)| line);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (reader.quote, letter) {
            (Some(quote), _) if letter == quote => reader.quote = None,
            (Some(_), _) => reader.push(letter),
            (None, '\'' | '"') => {
                reader.quote = Some(letter);
                reader.open = true;
            }
            (None, '\\') => reader.push(letters.next().unwrap_or_default()),
            (None, '$') if letters.peek() == Some(&'(') => {
                letters.next();
                let inner: String = nested(&mut letters);
                reader.done.extend(simple_commands(&inner));
                reader.push('$');
            }
            (None, ' ' | '\n' | '\t') => reader.end_word(),
            (None, '>') => {
                // A number before it is the stream's.
                if reader.word.chars().all(|letter| letter.is_ascii_digit()) {
                    reader.word.clear();
                    reader.open = false;
                }
                reader.end_word();
                reader.redirects = true;
                while letters.next_if(|next| ['>', '&', ' '].contains(next)).is_some() {}
            }
            (None, '<') => {
                reader.end_word();
                reader.redirects = true;
                while letters.next_if_eq(&' ').is_some() {}
            }
            (None, '&' | '|' | ';') => reader.end_command(),
            (None, _) => reader.push(letter),
        }
    }
    reader.end_command();
    reader.done
}

/// What is inside `$( )`.
fn nested(letters: &mut impl Iterator<Item = char>) -> String {
    let mut depth = 1;
    letters
        .take_while(|letter| {
            depth += i32::from(*letter == '(') - i32::from(*letter == ')');
            depth > 0
        })
        .collect()
}

#[derive(Default)]
struct Reader {
    quote: Option<char>,
    word: String,
    /// Whether the word began, if only by a quote.
    open: bool,
    /// Whether the word is what a stream goes to.
    redirects: bool,
    words: Vec<String>,
    done: Vec<Vec<String>>,
}

impl Reader {
    fn push(&mut self, letter: char) {
        self.word.push(letter);
        self.open = true;
    }

    fn end_word(&mut self) {
        if self.open {
            let word = std::mem::take(&mut self.word);
            if !std::mem::take(&mut self.redirects) {
                self.words.push(word);
            }
            self.open = false;
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.done.push(std::mem::take(&mut self.words));
        }
    }
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    let commands =
        simple_commands("A=$(deploy/x --y) sh 'a b' >out 2>&1 && medley-worker \"c|d\" <in | e; f & g --h=\"i j\"");
    let commands: Vec<String> = commands.iter().map(|words| words.join("·")).collect();
    assert_eq!(commands, ["deploy/x·--y", "A=$·sh·a b", "medley-worker·c|d", "e", "f", "g·--h=i j"]);
}
