//! Which tag names the device, and which tags are attributes of it: the same for every format that
//! has tags.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use event::{DeviceId, EventTime, MetricName, Value};

use super::SEEN_MAX;
use super::mapping::Devices;
use crate::inbox::Reading;

/// Names the device where the first tag is missing: what most collectors send.
const HOST_TAG: &str = "host";

/// What tags mean. A tag that is neither the device nor an attribute is passed over.
#[derive(Debug, Clone)]
pub struct TagRules {
    /// The tag that names the device; where it is missing, the tag `host` does.
    pub device_tag: String,
    /// The device where no tag names one; none = such lines are refused.
    pub device: Option<DeviceId>,
    /// Tags that are attributes of the device, with the attribute's name.
    pub attributes: Vec<(String, MetricName)>,
}

/// Applies the rules, and remembers which attributes have been told.
#[derive(Debug)]
pub(super) struct Tags {
    rules: TagRules,
    devices: Devices,
    /// Hashes of the attributes told last, in the order of the rules (0 = none yet): texts of up to a
    /// kilobyte for each device would be too much to keep.
    told: HashMap<DeviceId, Box<[u64]>>,
    hasher: RandomState,
}

impl Tags {
    pub fn new(rules: TagRules) -> Self {
        Self {
            rules,
            devices: Devices::default(),
            told: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// The device that the tags name.
    ///
    /// **Errors**: they name none or one that cannot be, as a text for people.
    pub fn device<T: AsRef<str>>(&mut self, tags: &[(T, T)]) -> Result<DeviceId, String> {
        for name in [self.rules.device_tag.as_str(), HOST_TAG] {
            if let Some(text) = find(tags, name)? {
                let device = self.devices.get(text);
                return device.map_err(|e| format!("tag {name:?}: {e}"));
            }
        }
        self.rules.device.clone().ok_or_else(|| {
            format!(
                "no device: neither a tag {:?} nor {HOST_TAG:?}, and the source's `device` is not set",
                self.rules.device_tag
            )
        })
    }

    /// Adds the attributes among the tags that differ from what was told of the device last.
    pub fn attributes<T: AsRef<str>>(
        &mut self,
        device: &DeviceId,
        time: Option<EventTime>,
        tags: &[(T, T)],
        out: &mut Vec<Reading>,
    ) {
        for (i, (name, metric)) in self.rules.attributes.iter().enumerate() {
            let Ok(Some(text)) = find(tags, name) else {
                continue;
            };
            if !self.told.contains_key(device) {
                if self.told.len() >= SEEN_MAX {
                    self.told.clear();
                }
                let none = vec![0; self.rules.attributes.len()];
                self.told.insert(device.clone(), none.into());
            }
            let hash = self.hasher.hash_one(text).max(1);
            let last = self.told.get_mut(device).and_then(|told| told.get_mut(i));
            if last.is_some_and(|last| std::mem::replace(last, hash) != hash) {
                out.push(Reading {
                    device: device.clone(),
                    metric: metric.clone(),
                    time,
                    value: Value::Text(text.into()),
                });
            }
        }
    }
}

/// **Errors**: the tag is there twice, so that nobody knows which is meant.
fn find<'a, T: AsRef<str>>(tags: &'a [(T, T)], name: &str) -> Result<Option<&'a str>, String> {
    let mut found = tags.iter().filter(|(key, _)| key.as_ref() == name);
    let first = found.next();
    if found.next().is_some() {
        return Err(format!("the tag {name:?} is there twice"));
    }
    Ok(first.map(|(_, text)| text.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(device: Option<&str>) -> Tags {
        Tags::new(TagRules {
            device_tag: "unit".to_owned(),
            device: device.map(|d| DeviceId::new(d).unwrap()),
            attributes: ["site", "room"]
                .map(|n| (n.to_owned(), MetricName::attribute(n).unwrap()))
                .to_vec(),
        })
    }

    #[test]
    fn the_device_is_the_tag_then_the_host_then_the_option() {
        let device = |default, list: &[(&str, &str)]| {
            tags(default).device(list).map(|d| d.as_str().to_owned())
        };
        assert_eq!(
            device(None, &[("host", "h"), ("unit", "u")]).as_deref(),
            Ok("u")
        );
        assert_eq!(
            device(Some("d"), &[("host", "h"), ("x", "u")]).as_deref(),
            Ok("h")
        );
        assert_eq!(device(Some("d"), &[("x", "u")]).as_deref(), Ok("d"));
        for (list, reason) in [
            (&[("x", "u")][..], "neither a tag \"unit\" nor \"host\""),
            (&[("unit", "a b")], "tag \"unit\": device id \"a b\" has"),
            (&[("unit", "")], "is empty"),
            (&[("unit", "a"), ("unit", "b")], "\"unit\" is there twice"),
        ] {
            let error = device(None, list).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn attributes_are_told_once_and_again_when_they_change() {
        let mut tags = tags(None);
        let (a, b) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        let mut told = |device: &DeviceId, list: &[(&str, &str)]| {
            let mut out = Vec::new();
            tags.attributes(device, None, list, &mut out);
            let show = |r: &Reading| format!("{} {} {:?}", r.device, r.metric, r.value);
            out.iter().map(show).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&a, &[("site", "p1"), ("x", "1")]),
            ["a @site Text(\"p1\")"]
        );
        assert!(told(&a, &[("site", "p1")]).is_empty());
        assert_eq!(
            told(&a, &[("site", "p1"), ("room", "r")]),
            ["a @room Text(\"r\")"]
        );
        assert_eq!(told(&b, &[("site", "p1")]), ["b @site Text(\"p1\")"]);
        assert_eq!(told(&a, &[("site", "p2")]), ["a @site Text(\"p2\")"]);
        assert!(told(&a, &[]).is_empty());
    }
}
