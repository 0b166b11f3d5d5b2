//! Labels as Prometheus and Alertmanager know them.

use std::collections::BTreeMap;

use crate::{Entry, Message};

/// Names and values, sorted.
pub(super) type Labels = BTreeMap<String, String>;

/// A name that Alertmanager takes: `[a-zA-Z_][a-zA-Z0-9_]*`; everything else becomes `_`.
fn name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// Labels with names that Alertmanager takes, and without empty values, which it reads as "not there".
pub(super) fn clean<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Labels {
    labels
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (name(key), value.clone()))
        .collect()
}

/// The labels of one alert: what it has in common with its page, its device's attributes, and what it is.
pub(super) fn of_alert(message: &Message, alert: &Entry) -> Labels {
    let mut labels = clean(message.labels.iter().chain(&alert.group));
    for (key, value) in [
        ("alertname", &alert.rule),
        ("severity", &alert.severity),
        ("device", &alert.device),
        ("metric", &alert.metric),
    ] {
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.clone());
        }
    }
    labels
}

/// The labels of the page as a whole. An Alertmanager needs `alertname`.
pub(super) fn of_page(message: &Message) -> Labels {
    let mut labels = clean(message.labels.iter());
    labels
        .entry("alertname".to_owned())
        .or_insert_with(|| match message.rule.as_str() {
            "" => "TidewatchAlert".to_owned(),
            rule => rule.to_owned(),
        });
    labels
}

/// The labels by which pages are made: rule and site.
pub(super) fn of_group(message: &Message) -> Labels {
    let mut labels = of_page(message);
    labels.retain(|key, _| key == "alertname" || key == "site");
    labels
}

/// What all have, with the same value.
pub(super) fn common(all: &[Labels]) -> Labels {
    let Some((first, others)) = all.split_first() else {
        return Labels::new();
    };
    let mut common = first.clone();
    common.retain(|key, value| others.iter().all(|labels| labels.get(key) == Some(value)));
    common
}

/// Alertmanager's fingerprint: FNV-1a of all names and values in order, each with a byte 255 behind it.
pub(super) fn fingerprint(labels: &Labels) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (key, value) in labels {
        for text in [key, value] {
            for byte in text.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    format!("{hash:016x}")
}

/// As Alertmanager writes the key of a group: `{}:{alertname="a", site="b"}`.
pub(super) fn group_key(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    format!("{{}}:{{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    #[test]
    fn names_become_what_alertmanager_takes() {
        let given = labels(&[("a.b-c", "1"), ("9x", "2"), ("ok_1", "3"), ("empty", "")]);
        let expected = labels(&[("a_b_c", "1"), ("_9x", "2"), ("ok_1", "3")]);
        assert_eq!(clean(given.iter()), expected);
    }

    #[test]
    fn a_group_is_named_as_alertmanager_names_it() {
        let group = labels(&[("alertname", "DeviceSilent")]);
        assert_eq!(group_key(&group), "{}:{alertname=\"DeviceSilent\"}");
        let group = labels(&[("site", "p\"1"), ("alertname", "a")]);
        assert_eq!(group_key(&group), "{}:{alertname=\"a\", site=\"p\\\"1\"}");
    }

    #[test]
    fn only_what_all_have_is_common() {
        let a = labels(&[("x", "1"), ("y", "2"), ("z", "3")]);
        let b = labels(&[("x", "1"), ("y", "3")]);
        assert_eq!(common(&[a.clone(), b]), labels(&[("x", "1")]));
        assert_eq!(common(std::slice::from_ref(&a)), a);
        assert_eq!(common(&[]), Labels::new());
    }

    #[test]
    fn fingerprints_are_those_of_alertmanager() {
        // As Alertmanager 0.25 gives them.
        let boiler = [
            ("alertname", "overheating"),
            ("device", "boiler 7"),
            ("site", "plant-1"),
        ];
        assert_eq!(fingerprint(&labels(&boiler)), "2ac1074d665548fa");
        let odd = [boiler[0], boiler[1], ("note", "ä\"x"), boiler[2]];
        assert_eq!(fingerprint(&labels(&odd)), "ef05cd9fe7194cad");
        assert_eq!(
            fingerprint(&labels(&[("alertname", "a")])),
            "d258efc389808447"
        );
    }
}
