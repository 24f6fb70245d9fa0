use super::Json;
use std::borrow::Cow;
use std::slice;

/// Up to so many fields it is quicker to look at each than to halve.
const FEW: usize = 16;

/// Fields, sorted by name, each name once: whoever writes or hashes them finds them in order, and in an object of 100 000 fields one is found as
/// soon as in a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<'t>(Vec<(Cow<'t, str>, Json<'t>)>);

impl<'t> Object<'t> {
    pub fn new() -> Object<'t> {
        Object(Vec::new())
    }

    /// Of a name given twice the last one counts.
    pub fn of(mut fields: Vec<(Cow<'t, str>, Json<'t>)>) -> Object<'t> {
        // Most are small, and those of our own making are in order.
        if !fields.is_sorted_by(|(one, _), (next, _)| one < next) {
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            fields.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        }
        Object(fields)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&Json<'t>> {
        if self.0.len() <= FEW {
            return self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value);
        }
        self.place(name).ok().map(|at| &self.0[at].1)
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Json<'t>> {
        self.place(name).ok().map(|at| &mut self.0[at].1)
    }

    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// For a field or two: many are collected at once.
    pub fn insert(&mut self, name: impl Into<Cow<'t, str>>, value: Json<'t>) {
        let name = name.into();
        match self.place(&name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Json<'t>> {
        self.place(name).ok().map(|at| self.0.remove(at).1)
    }

    pub fn iter(&self) -> Iter<'_, 't> {
        Iter(self.0.iter())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    pub fn values(&self) -> impl Iterator<Item = &Json<'t>> {
        self.0.iter().map(|(_, value)| value)
    }

    pub fn into_owned(self) -> Object<'static> {
        Object(self.0.into_iter().map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned())).collect())
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(field, _)| (**field).cmp(name))
    }
}

impl<'t, N: Into<Cow<'t, str>>> FromIterator<(N, Json<'t>)> for Object<'t> {
    fn from_iter<I: IntoIterator<Item = (N, Json<'t>)>>(fields: I) -> Object<'t> {
        Object::of(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl<'a, 't> IntoIterator for &'a Object<'t> {
    type Item = (&'a str, &'a Json<'t>);
    type IntoIter = Iter<'a, 't>;

    fn into_iter(self) -> Iter<'a, 't> {
        self.iter()
    }
}

impl<'t> IntoIterator for Object<'t> {
    type Item = (Cow<'t, str>, Json<'t>);
    type IntoIter = std::vec::IntoIter<(Cow<'t, str>, Json<'t>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The fields in the order of their names.
#[derive(Clone, Debug)]
pub struct Iter<'a, 't>(slice::Iter<'a, (Cow<'t, str>, Json<'t>)>);

impl<'a, 't> Iterator for Iter<'a, 't> {
    type Item = (&'a str, &'a Json<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (&**name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
