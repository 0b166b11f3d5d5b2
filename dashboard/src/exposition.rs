//! Text of metric families, Prometheus format 0.0.4.

use std::fmt::{self, Display, Write};

/// What a family's values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until a restart. Its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Families, one after another.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    names: Vec<&'static str>,
}

impl Exposition {
    /// Begins a family.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        debug_assert!(!self.names.contains(&name), "{name} is written twice");
        self.names.push(name);
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { out: self, name }
    }

    /// A family with one value and no labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).value(&[], value);
    }

    /// The text, followed by the families of `other` (text of the same format) that are not here.
    pub fn with(mut self, other: &str) -> String {
        let mut here = false;
        for line in other.lines().filter(|l| !l.is_empty()) {
            // Families begin with HELP or, where nobody described them, with TYPE.
            if let Some(rest) = line.strip_prefix("# ") {
                let name = rest.split(' ').nth(1).unwrap_or_default();
                here = self.names.contains(&name);
            }
            if !here {
                self.text.push_str(line);
                self.text.push('\n');
            }
        }
        self.text
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// The family that is being written.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut Exposition,
    name: &'static str,
}

impl Family<'_> {
    /// Writes one value.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.text.push_str(self.name);
        for (i, (name, value)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let value = value
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            self.out.push(format_args!("{open}{name}=\"{value}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.out.push(format_args!("{close} {value}\n"));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_the_format_says() {
        let mut out = Exposition::default();
        out.single("a_total", Kind::Counter, "Back\\slash,\nline", 3);
        out.family("b_ratio", Kind::Gauge, "B")
            .value(&[("x", "q\"\\\n"), ("y", "")], 0.5)
            .value(&[("x", "z")], 1.0);
        let own = "# HELP a_total Back\\\\slash,\\nline\n# TYPE a_total counter\na_total 3\n\
                   # HELP b_ratio B\n# TYPE b_ratio gauge\n\
                   b_ratio{x=\"q\\\"\\\\\\n\",y=\"\"} 0.5\nb_ratio{x=\"z\"} 1\n";
        let other = "# TYPE a_total counter\na_total 9\n\n# HELP c C\n# TYPE c gauge\nc 1\n\n";
        let expected = format!("{own}# HELP c C\n# TYPE c gauge\nc 1\n");
        assert_eq!(out.with(other), expected);
    }
}
