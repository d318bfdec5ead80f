//! What `strace` wrote, as points at which a run can be disturbed.

use std::collections::BTreeMap;

/// A system call of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// How many of that name its thread had made up to this one, itself included.
    pub nth: usize,
    /// Its thread, where several were followed.
    pub thread: Option<i32>,
    /// The line of the trace from its arguments on.
    pub rest: String,
}

impl Point {
    /// The point for people: which call, and the beginning of its arguments.
    pub fn label(&self) -> String {
        format!("{} {} ({:.40})", self.name, self.nth, self.rest)
    }
}

/// The points of a trace, with the thread's number in front of each line if several were followed.
pub fn points(trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(Option<i32>, &str), usize> = BTreeMap::new();
    let mut points = Vec::new();
    for line in trace.lines() {
        let (thread, call) = match line.split_once(char::is_whitespace) {
            Some((number, rest)) if number.parse::<i32>().is_ok() => (number.parse().ok(), rest.trim_start()),
            _ => (None, line),
        };
        let Some((name, rest)) = call.split_once('(') else { continue };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let nth = counts.entry((thread, name)).and_modify(|count| *count += 1).or_insert(1);
        points.push(Point { name: name.to_owned(), nth: *nth, thread, rest: rest.to_owned() });
    }
    points
}

/// The points from the first one on that turns to standard input: what lies before is the loader's and the language's.
pub fn from_stdin(points: Vec<Point>) -> Vec<Point> {
    let begins = |point: &Point| match &*point.name {
        "ioctl" | "read" => point.rest.starts_with("0,"),
        "poll" | "ppoll" => point.rest.starts_with("[{fd=0, events=POLLIN}]"),
        _ => false,
    };
    points.into_iter().skip_while(|point| !begins(point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_thread_and_name_and_what_goes_on_later_counts_once() {
        let trace = "12 write(3, \"a\", 1) = 1\n13    write(3, \"b\" <unfinished ...>\n12 write(4, \"c\", 1) = 1\n\
                     13 <... write resumed>) = 1\n12 +++ exited with 0 +++\n";
        let found: Vec<_> =
            points(trace).into_iter().map(|point| (point.thread, point.name, point.nth)).collect();
        let write = |thread, nth| (Some(thread), "write".to_owned(), nth);
        assert_eq!(found, [write(12, 1), write(13, 1), write(12, 2)]);
    }

    #[test]
    fn the_run_begins_with_standard_input_and_keeps_its_counts() {
        let trace = "read(3, \"ELF\", 3) = 3\nioctl(0, TCGETS, x) = -1 ENOTTY\nread(0, \"{}\", 2) = 2\n";
        let found = from_stdin(points(trace));
        assert_eq!(
            found.iter().map(|point| (&*point.name, point.nth)).collect::<Vec<_>>(),
            [("ioctl", 1), ("read", 2)]
        );
    }
}
