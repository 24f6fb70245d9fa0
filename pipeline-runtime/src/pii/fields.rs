//! The encrypted fields of an event within its data: between what they say and what stands in their place.

use super::keys::Keyring;
use super::text::{self, Found};
use super::value::{Bound, PREFIX, Unreadable};
use bytes::Bytes;
use crds::expression::Compiled;
use crds::json::Json;
use crds::pipeline::{FieldPath, Step};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// In the place of a field: the whole body of a message.
const BODY: &str = "body";

/// Fields of one event, or of all events of a topic.
#[derive(Clone, Debug)]
pub struct Fields {
    all: Vec<Field>,
    keyring: Arc<Keyring>,
}

#[derive(Clone, Debug)]
struct Field {
    event: Arc<str>,
    path: FieldPath,
    name: String,
    /// It must be equal to be found.
    matching: bool,
    /// The steps that it shares with a field before it: what departs from the path within these is that one's.
    shared: Option<usize>,
}

impl Field {
    fn each<'t>(&self, data: &mut Json<'t>, seen: &mut impl FnMut(&mut Json<'t>)) {
        self.path.each_beyond(self.shared, data, seen);
    }

    fn bound(&self) -> Bound<'_> {
        if self.matching { Bound::Matching } else { Bound::To { event: &self.event, field: &self.name } }
    }
}

/// What was encrypted: the plain values, to be put back where somebody has to see them.
#[derive(Debug, Default)]
pub struct Encrypted<'t>(Vec<Json<'t>>);

/// What was decrypted: for each field of the topic the values as they came. None: it was plain.
#[derive(Debug, Default)]
pub struct Opened(Vec<Vec<Option<Came>>>);

#[derive(Debug)]
struct Came {
    text: String,
    /// None: it must be equal to be found.
    event: Option<String>,
}

/// The text of a message in which data stands, for values that are told apart only there: 1.10 is parsed as 1.1.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    pub text: &'a str,
    /// The field that holds the data; none: it is the data.
    pub data: Option<&'a str>,
}

impl Fields {
    pub fn new(event: &str, fields: impl IntoIterator<Item = (FieldPath, bool)>, keyring: &Arc<Keyring>) -> Fields {
        let event: Arc<str> = event.into();
        let field =
            |(path, matching): (FieldPath, bool)| Field { event: event.clone(), name: path.to_string(), path, matching, shared: None };
        Fields { all: in_order(fields.into_iter().map(field).collect()), keyring: keyring.clone() }
    }

    /// Those of several events: what of them stands in a message that nobody has recognised yet. The outer before the inner.
    pub fn of_all<'a>(events: impl IntoIterator<Item = &'a Fields>, keyring: &Arc<Keyring>) -> Fields {
        let mut all: Vec<Field> = Vec::new();
        for field in events.into_iter().flat_map(|fields| &fields.all) {
            if !all.iter().any(|known| known.path == field.path) {
                all.push(field.clone());
            }
        }
        Fields { all: in_order(all), keyring: keyring.clone() }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether an expression reads one of them.
    pub fn are_read(&self, expression: &Compiled) -> bool {
        let reads = expression.reads();
        self.all.iter().any(|field| reads.iter().any(|read| read.touches(&field.path)))
    }

    pub fn hash(&self, digest: &[u8; 32]) -> [u8; 32] {
        self.keyring.hash(digest)
    }

    /// Whether this is the place of a field, `data.lines[3].note`, or lies in one, or holds one: data of another shape has its words there.
    pub fn hold(&self, place: &str) -> bool {
        let place = without_numbers(place);
        let within =
            |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.all.iter().any(|field| within(&place, &field.name) || within(&field.name, &place))
    }

    /// Encrypts the fields within the data, each from its own text where there is one, and makes the text anew.
    pub fn encrypt<'t>(&self, data: &mut Json<'t>, text: Option<&str>, event_id: &str) -> Result<(Encrypted<'t>, Bytes), Unreadable> {
        let places = text.map(|text| self.places(Body { text, data: None }, &self.counts(data))).unwrap_or_default();
        let (mut plain, mut texts, mut failed) = (Vec::new(), Vec::new(), None);
        for (index, field) in self.all.iter().enumerate() {
            let mut places = places.iter().filter(|found| found.field == index);
            field.each(data, &mut |value| {
                let place = places.next();
                match self.keyring.encrypt(field.bound(), event_id, raw(place, text.unwrap_or_default(), value).as_bytes()) {
                    Ok(encrypted) => {
                        texts.extend(place.map(|found| (found.at.clone(), encrypted.clone())));
                        plain.push(std::mem::replace(value, Json::from(encrypted)));
                    }
                    Err(error) => failed = Some(error),
                }
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let whole = texts.len() == plain.len();
        let text = text.filter(|_| whole).map_or_else(|| data.to_string().into(), |text| spliced(text, texts));
        Ok((Encrypted(plain), text))
    }

    /// The other view of data that `encrypt` has seen: what is encrypted as what it says, or back again.
    pub fn swap<'t>(&self, data: &mut Json<'t>, other: &mut Encrypted<'t>) {
        let mut others = other.0.iter_mut();
        for field in &self.all {
            field.each(data, &mut |value| {
                if let Some(other) = others.next() {
                    std::mem::swap(value, other);
                }
            });
        }
    }

    /// Decrypts what of a message's data is encrypted. On an error: the field that does not open, and why.
    pub fn open(&self, data: &mut Json<'_>) -> Result<Opened, (String, Unreadable)> {
        let (mut opened, mut failed) = (Opened::default(), None);
        for field in &self.all {
            let mut came = Vec::new();
            field.each(data, &mut |value| match self.opened(field, value) {
                Ok(None) => came.push(None),
                Ok(Some((plain, event))) => {
                    let text = match std::mem::replace(value, plain) {
                        Json::String(text) => text.into_owned(),
                        other => other.to_string(), // only texts open
                    };
                    came.push(Some(Came { text, event }));
                }
                Err(error) => drop(failed.get_or_insert((field.name.clone(), error))),
            });
            opened.0.push(came);
        }
        failed.map_or(Ok(opened), Err)
    }

    fn opened(&self, field: &Field, value: &Json<'_>) -> Result<Option<(Json<'static>, Option<String>)>, Unreadable> {
        let Some(opened) = value.as_str().and_then(|text| self.keyring.decrypt(text)) else { return Ok(None) };
        let (plain, bound) = opened?;
        let event = match bound {
            Bound::Matching => None,
            Bound::To { event, field: name } if name == field.name => Some(event.to_owned()),
            Bound::To { .. } => return Err(Unreadable::Forged),
        };
        let plain: Json = serde_json::from_slice(&plain).map_err(|_| Unreadable::Forged)?;
        Ok(Some((plain.into_owned(), event)))
    }

    /// Encrypts again what `open` has decrypted: what came encrypted for this event is what it was, what came plain is encrypted now.
    /// `self` is the event's, `topic` what opened it.
    pub fn hide(
        &self,
        topic: &Fields,
        opened: Opened,
        data: &mut Json<'_>,
        body: Body<'_>,
        event_id: &str,
    ) -> Result<(), (String, Unreadable)> {
        let mut came: Vec<Vec<Option<Came>>> = self.all.iter().map(|_| Vec::new()).collect();
        for (field, values) in topic.all.iter().zip(opened.0) {
            match self.all.iter().position(|own| own.path == field.path) {
                Some(index) => came[index] = values,
                // Of another event, and what stands there is nothing of ours; unless it was encrypted, and then for that one.
                None if values.iter().any(Option::is_some) => return Err((field.name.clone(), Unreadable::Forged)),
                None => {}
            }
        }
        let plain = came.iter().flatten().any(Option::is_none);
        let places = if plain { self.places(body, &came.iter().map(Vec::len).collect::<Vec<_>>()) } else { Vec::new() };
        let mut failed = None;
        for (index, (field, came)) in self.all.iter().zip(came).enumerate() {
            let (mut came, mut places) = (came.into_iter(), places.iter().filter(|found| found.field == index));
            field.each(data, &mut |value| {
                let place = places.next();
                let hidden = match came.next().flatten() {
                    Some(Came { text, event: None }) if field.matching => Ok(text),
                    Some(Came { text, event: Some(event) }) if !field.matching && *event == *field.event => Ok(text),
                    Some(Came { event: Some(event), .. }) if *event != *field.event => Err(Unreadable::Forged),
                    // The document has changed meanwhile: now it must be equal to be found, or need not be any more.
                    Some(_) => self.keyring.encrypt(field.bound(), event_id, value.to_string().as_bytes()),
                    None => self.keyring.encrypt(field.bound(), event_id, raw(place, body.text, value).as_bytes()),
                };
                match hidden {
                    Ok(text) => *value = Json::from(text),
                    Err(error) => drop(failed.get_or_insert((field.name.clone(), error))),
                }
            });
        }
        failed.map_or(Ok(()), Err)
    }

    /// Encrypts for this event what another one hands on: its encrypted values, and plain ones as well.
    pub fn adopt(&self, data: &mut Json<'_>, event_id: &str) -> Result<(), Unreadable> {
        let mut failed = None;
        for field in &self.all {
            field.each(data, &mut |value| {
                let plain = match value.as_str().and_then(|text| self.keyring.decrypt(text)) {
                    Some(opened) => opened.map(|(plain, _)| plain),
                    None => Ok(value.to_string().into_bytes()),
                };
                match plain.and_then(|plain| self.keyring.encrypt(field.bound(), event_id, &plain)) {
                    Ok(text) => *value = Json::from(text),
                    Err(error) => failed = Some(error),
                }
            });
        }
        failed.map_or(Ok(()), Err)
    }

    /// A message as it is, but for what is plain of these fields. None: nothing is.
    pub fn hide_text(&self, body: Body<'_>, event_id: &str) -> Result<Option<Bytes>, Unreadable> {
        let (mut texts, mut end) = (Vec::new(), 0);
        let mut found = text::find(body.text, &self.paths(body));
        found.sort_by_key(|found| (found.at.start, usize::MAX - found.at.end));
        for Found { field, at } in found {
            let raw = &body.text[at.clone()];
            // What lies in a field that is encrypted is encrypted with it.
            if at.start < end || self.is_encrypted(raw) {
                continue;
            }
            end = at.end;
            texts.push((at, self.keyring.encrypt(self.all[field].bound(), event_id, raw.as_bytes())?));
        }
        Ok((!texts.is_empty()).then(|| spliced(body.text, texts)))
    }

    fn is_encrypted(&self, raw: &str) -> bool {
        let text = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).filter(|text| text.starts_with(PREFIX));
        let opened = text.and_then(|text| self.keyring.decrypt(text));
        opened.is_some_and(|opened| !matches!(opened, Err(Unreadable::Forged)))
    }

    /// The whole body of a message that cannot be read.
    pub fn hide_body(&self, topic: &str, body: &[u8]) -> Result<Bytes, Unreadable> {
        self.keyring.encrypt(Bound::To { event: topic, field: BODY }, "", body).map(Bytes::from)
    }

    /// The same in at most so many bytes: of so much of the beginning as has room then, and how much that is. Encrypted first and cut then,
    /// it would open for nobody.
    pub fn hide_beginning(&self, topic: &str, body: &[u8], most: usize) -> Result<(Bytes, usize), Unreadable> {
        let around = self.hide_body(topic, b"")?.len();
        // Base64 makes four bytes of three.
        let taken = body.len().min(most.saturating_sub(around) / 4 * 3);
        Ok((if taken == 0 { Bytes::new() } else { self.hide_body(topic, &body[..taken])? }, taken))
    }

    /// A body that `hide_body` has made. None: it is another one.
    pub fn open_body(&self, topic: &str, body: &[u8]) -> Option<Result<Bytes, Unreadable>> {
        let text = std::str::from_utf8(body).ok().filter(|text| text.starts_with(PREFIX))?;
        let opened = self.keyring.decrypt(text)?;
        Some(opened.and_then(|(plain, bound)| match bound {
            Bound::To { event, field: BODY } if event == topic => Ok(plain.into()),
            _ => Err(Unreadable::Forged),
        }))
    }

    fn paths<'a>(&'a self, body: Body<'_>) -> Vec<text::Path<'a>> {
        let data = body.data.map(|name| Step::Field(name.to_owned()));
        let path = |field: &'a Field| text::Path {
            steps: data.iter().cloned().map(Cow::Owned).chain(field.path.steps().iter().map(Cow::Borrowed)).collect(),
            shared: field.shared.map(|shared| shared + data.iter().len()),
        };
        self.all.iter().map(path).collect()
    }

    /// Where the values stand in the text. Of a field of which another number stands there than in the data (a key given twice), none.
    fn places(&self, body: Body<'_>, counts: &[usize]) -> Vec<Found> {
        let mut found = text::find(body.text, &self.paths(body));
        for (index, count) in counts.iter().enumerate() {
            if found.iter().filter(|found| found.field == index).count() != *count {
                found.retain(|found| found.field != index);
            }
        }
        found
    }

    /// How many values stand in the data, of each field.
    fn counts(&self, data: &mut Json<'_>) -> Vec<usize> {
        let count = |field: &Field| {
            let mut count = 0;
            field.each(data, &mut |_| count += 1);
            count
        };
        self.all.iter().map(count).collect()
    }
}

/// The outer before the inner, and always the same: a value in the place of several fields is the first one's.
fn in_order(mut all: Vec<Field>) -> Vec<Field> {
    all.sort_by(|one, other| one.path.cmp(&other.path));
    for index in 0..all.len() {
        let (before, rest) = all.split_at_mut(index);
        let Some(field) = rest.first_mut() else { break };
        field.shared = before.iter().map(|other| field.path.shared_with(&other.path)).max();
    }
    all
}

/// A value as it was written, where that is known.
fn raw<'a>(place: Option<&Found>, text: &'a str, value: &Json<'_>) -> Cow<'a, str> {
    place.map_or_else(|| Cow::Owned(value.to_string()), |found| Cow::Borrowed(&text[found.at.clone()]))
}

/// A text with other texts, as JSON, in these places.
fn spliced(text: &str, mut places: Vec<(Range<usize>, String)>) -> Bytes {
    places.sort_by_key(|(at, _)| at.start);
    let mut whole = Vec::with_capacity(text.len() + places.iter().map(|(_, new)| new.len() + 2).sum::<usize>());
    let mut from = 0;
    for (at, new) in places {
        whole.extend_from_slice(&text.as_bytes()[from..at.start]);
        // No character of an encrypted value needs an escape.
        whole.push(b'"');
        whole.extend_from_slice(new.as_bytes());
        whole.push(b'"');
        from = at.end;
    }
    whole.extend_from_slice(&text.as_bytes()[from..]);
    whole.into()
}

/// `data.lines[3].note` as `data.lines[].note`.
fn without_numbers(place: &str) -> String {
    let mut plain = String::with_capacity(place.len());
    let mut within = false;
    for c in place.chars() {
        within = c != ']' && (within || c == '[');
        if c == '[' || !within {
            plain.push(c);
        }
    }
    plain
}
