//! Tables for people: a row a line, or wrapped to the terminal's width.

use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};

/// Blanks between two columns.
const GAP: usize = 2;
/// A wrapped column is at least so wide, however narrow the terminal.
const NARROWEST: usize = 12;

/// Columns of the terminal that standard output is; `None` where it is none.
pub(super) fn terminal_width() -> Option<usize> {
    let out = stdout();
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    (out.is_terminal() && size.ws_col > 0).then_some(size.ws_col.into())
}

/// The width of the widest cell of each column.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    (0..columns).map(width).collect()
}

/// Columns of equal width, two blanks between.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    lines(rows, &widths(rows))
}

/// [`table`] within `width` columns: what stands behind the first `whole` columns wraps.
pub(super) fn wrapped(rows: &[Vec<String>], whole: usize, width: usize) -> String {
    let mut widths = widths(rows);
    let fixed: usize = widths.iter().take(whole).map(|width| width + GAP).sum();
    let mut left = width.saturating_sub(fixed);
    // The narrow ones keep what they need; the others share the rest.
    let mut order: Vec<usize> = (whole..widths.len()).collect();
    order.sort_by_key(|n| widths.get(*n).copied());
    for (nth, n) in order.iter().enumerate() {
        let share = (left / (order.len() - nth)).saturating_sub(GAP);
        if let Some(width) = widths.get_mut(*n) {
            *width = (*width).min(share.max(NARROWEST));
            left = left.saturating_sub(*width + GAP);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells.map(|(cell, width)| folded(cell, *width)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let line = |n: usize| {
            let cell = |cell: &Vec<String>| cell.get(n).cloned().unwrap_or_default();
            cells.iter().map(cell).collect()
        };
        let block: Vec<Vec<String>> = (0..height).map(line).collect();
        text += &lines(&block, &widths);
    }
    text
}

fn lines(rows: &[Vec<String>], widths: &[usize]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A text in lines of at most `width` characters, broken at blanks; a longer word is cut.
fn folded(text: &str, width: usize) -> Vec<String> {
    let (mut done, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        let space = usize::from(used > 0);
        if used > 0 && used + space + rest.len() > width {
            done.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        while rest.len() > width {
            line.extend(rest.drain(..width));
            done.push(std::mem::take(&mut line));
        }
        used += rest.len();
        line.extend(rest);
    }
    done.push(line);
    done
}

#[cfg(test)]
mod tests {
    use super::{folded, table, wrapped};

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let print = format!("thumbprint:{}", "ab".repeat(32));
        vec![
            row(["LAST", "WHO", "FIX"]),
            row([
                "1s ago",
                &print,
                "register the thumbprint, or add its CA to the listener",
            ]),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal_and_loses_no_character() {
        for width in [80, 60, 40] {
            let text = wrapped(&rows(), 1, width);
            assert!(
                text.lines().all(|line| line.chars().count() <= width),
                "{width}:\n{text}"
            );
            let letters = |text: &str| {
                let mut all: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
                all.sort_unstable();
                all
            };
            assert_eq!(letters(&text), letters(&table(&rows())), "{width}:\n{text}");
        }
        let wide = wrapped(&rows(), 1, 500);
        assert_eq!(wide, table(&rows()), "room enough");
    }

    #[test]
    fn a_text_breaks_at_blanks_and_a_long_word_where_it_must() {
        assert_eq!(folded("add the CA", 7), ["add the", "CA"]);
        assert_eq!(folded("a 0123456789", 4), ["a", "0123", "4567", "89"]);
        assert_eq!(folded("", 4), [""]);
    }
}
