//! Text of others in a message of ours.

use alloc::string::String;

/// `text` as it can stand in a message: white space is single spaces, and what does not print, from an escape byte that a
/// terminal would obey to a mark that turns the direction of writing, is escaped as in Rust.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for letter in word.chars() {
            match letter {
                // What messages and paths quote with.
                '\'' | '"' | '\\' => line.push(letter),
                _ => line.extend(letter.escape_debug()),
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_that_commands_nothing() {
        let cases = [
            ("", ""),
            (" two  words\n\tof `it's` \"text\" C:\\a\r\n", "two words of `it's` \"text\" C:\\a"),
            ("a\u{1b}[2Jb\0", "a\\u{1b}[2Jb\\0"),
            ("\u{202e}gpj.exe \u{7f}", "\\u{202e}gpj.exe \\u{7f}"),
            ("Katze Кот 猫", "Katze Кот 猫"),
        ];
        for (text, line) in cases {
            assert_eq!(one_line(text), line);
        }
    }
}
