//! Avro's bytes become JSON. Written by one schema and read by another: what of the one becomes what of the other is planned once, and the
//! plan is kept. A pair that does not fit is found while it is planned, not message by message.
//!
//! Null in a field that may be null is a field that is not there, as JSON has it.

use super::schema::{Field, Schema, Shape, Type, Unit};
use super::text;
use crate::codec::MAX_WEIGHT;
use crds::json::{Json, Object};
use serde_json::{Number, Value};
use std::collections::HashMap;

/// A schema may refer to itself, and a message go round as often as it likes.
const DEEPEST: usize = 64;

/// How a message of one schema is read as one of another.
#[derive(Debug)]
pub struct Plan {
    root: Read,
    records: Vec<Record>,
}

#[derive(Clone, Debug)]
enum Read {
    Null,
    Boolean,
    Whole(View),
    Float,
    Double,
    /// Bytes with their length before them, or as many as a fixed has.
    Bytes(Option<usize>, BytesView),
    Symbol(Vec<Result<String, String>>),
    List(Box<Read>),
    Map(Box<Read>),
    /// By the writer's branch.
    Union(Vec<Read>),
    Record(usize),
    /// A value that the reader has no place for.
    Refused(String),
}

/// What a whole number means to the reader.
#[derive(Clone, Copy, Debug)]
enum View {
    Int,
    Long,
    Date,
    Time(Unit),
}

#[derive(Clone, Copy, Debug)]
enum BytesView {
    Text,
    Latin1,
    Decimal(u32),
}

#[derive(Debug, Default)]
struct Record {
    steps: Vec<Step>,
    /// Fields that only the reader has.
    defaults: Vec<(String, Value)>,
}

/// A field of the writer.
#[derive(Debug)]
struct Step {
    /// None: the reader does not have it.
    name: Option<String>,
    optional: bool,
    read: Read,
}

impl Plan {
    /// The error says why what is written by the one cannot be read by the other.
    pub fn new(writer: &Schema, reader: &Schema) -> Result<Plan, String> {
        let mut planner = Planner { writer, reader, records: Vec::new(), planned: HashMap::new(), broken: None };
        let root = planner.plan(&writer.root, &reader.root);
        match (root, planner.broken) {
            (Read::Refused(why), _) | (_, Some(why)) => Err(why),
            (root, None) => Ok(Plan { root, records: planner.records }),
        }
    }

    pub fn read<'b>(&self, bytes: &'b [u8]) -> Result<Json<'b>, String> {
        let mut reader = Reader { plan: self, rest: bytes, room: MAX_WEIGHT, depth: 0 };
        let value = reader.value(&self.root)?;
        match reader.rest.len() {
            0 => Ok(value),
            left => Err(format!("{left} bytes are left behind the end of the data: it was written by another schema than its id says")),
        }
    }
}

struct Planner<'a> {
    writer: &'a Schema,
    reader: &'a Schema,
    records: Vec<Record>,
    planned: HashMap<Pair, Planned>,
    /// Why a record is refused that others, planned before, hold.
    broken: Option<String>,
}

/// The writer's record, the reader's, and whether it is only read to be passed over.
type Pair = (usize, usize, bool);

#[derive(Clone)]
enum Planned {
    /// Under way. Whether what lies below refers to it.
    Open(usize, bool),
    Done(usize),
    Refused(String),
}

impl<'a> Planner<'a> {
    fn plan(&mut self, writer: &'a Type, reader: &'a Type) -> Read {
        use Type::*;
        match (writer, reader) {
            (Union(branches), _) => {
                let branches: Vec<Read> = branches.iter().map(|branch| self.plan(branch, reader)).collect();
                match branches.iter().all(|branch| matches!(branch, Read::Refused(_))) {
                    true => self.refused(writer, reader),
                    false => Read::Union(branches),
                }
            }
            (_, Union(branches)) => {
                let same = |branch: &&'a Type| std::mem::discriminant(*branch) == std::mem::discriminant(writer);
                let (first, then): (Vec<&'a Type>, Vec<&'a Type>) = branches.iter().partition(same);
                for branch in first.into_iter().chain(then) {
                    match self.plan(writer, branch) {
                        Read::Refused(_) => {}
                        read => return read,
                    }
                }
                self.refused(writer, reader)
            }
            (Null, Null) => Read::Null,
            (Boolean, Boolean) => Read::Boolean,
            (Int, Int) | (Date, Int) => Read::Whole(View::Int),
            (Int | Date, Date) => Read::Whole(View::Date),
            (Int | Long | Date | Timestamp(_), Long) | (Int | Long, Float | Double) => Read::Whole(View::Long),
            (Int | Long, Timestamp(unit)) => Read::Whole(View::Time(*unit)),
            (Timestamp(from), Timestamp(to)) if from == to => Read::Whole(View::Time(*to)),
            (Float, Float | Double) => Read::Float,
            (Double, Double) => Read::Double,
            (String | Bytes, String) => Read::Bytes(None, BytesView::Text),
            (String | Bytes, Bytes) => Read::Bytes(None, BytesView::Latin1),
            (Bytes, Decimal(to)) if to.size.is_none() => Read::Bytes(None, BytesView::Decimal(to.scale)),
            (Decimal(from), Bytes) if from.size.is_none() => Read::Bytes(None, BytesView::Latin1),
            (Decimal(from), Decimal(to)) if from.scale == to.scale && from.precision <= to.precision => {
                Read::Bytes(from.size, BytesView::Decimal(to.scale))
            }
            (Array(from), Array(to)) => match self.plan(from, to) {
                Read::Refused(why) => Read::Refused(why),
                items => Read::List(Box::new(items)),
            },
            (Map(from), Map(to)) => match self.plan(from, to) {
                Read::Refused(why) => Read::Refused(why),
                values => Read::Map(Box::new(values)),
            },
            (Named(from), Named(to)) => self.named(*from, *to).unwrap_or_else(|| self.refused(writer, reader)),
            _ => self.refused(writer, reader),
        }
    }

    fn refused(&self, writer: &Type, reader: &Type) -> Read {
        Read::Refused(format!("is written as {} and read as {}", self.writer.describe(writer), self.reader.describe(reader)))
    }

    /// None: they are of two kinds.
    fn named(&mut self, from: usize, to: usize) -> Option<Read> {
        let (written, wanted): (&'a Schema, &'a Schema) = (self.writer, self.reader);
        let (writer, reader) = (written.named(from), wanted.named(to));
        let own = |name: &'a str| name.rsplit_once('.').map_or(name, |(_, own)| own);
        let same = own(&writer.name) == own(&reader.name) || reader.aliases.contains(&writer.name);
        match (&writer.is, &reader.is) {
            (Shape::Record(written), Shape::Record(wanted)) if same => {
                let passed_over = std::ptr::eq(self.writer, self.reader);
                Some(self.record((from, to, passed_over), written, wanted))
            }
            (Shape::Enum { symbols, .. }, Shape::Enum { symbols: known, default }) if same => {
                let symbols = symbols.iter().map(|symbol| match known.contains(symbol) {
                    true => Ok(symbol.clone()),
                    false => default.clone().ok_or_else(|| format!("is none of {}", known.join(", "))),
                });
                Some(Read::Symbol(symbols.collect()))
            }
            (Shape::Fixed(written), Shape::Fixed(wanted)) if same && written == wanted => {
                Some(Read::Bytes(Some(*written), BytesView::Latin1))
            }
            _ => None,
        }
    }

    fn record(&mut self, pair: Pair, written: &'a [Field], wanted: &'a [Field]) -> Read {
        match self.planned.get_mut(&pair) {
            Some(Planned::Open(index, referred_to)) => {
                *referred_to = true;
                return Read::Record(*index);
            }
            Some(Planned::Done(index)) => return Read::Record(*index),
            Some(Planned::Refused(why)) => return Read::Refused(why.clone()),
            None => {}
        }
        let index = self.records.len();
        self.records.push(Record::default());
        self.planned.insert(pair, Planned::Open(index, false));
        let fields = self.fields(written, wanted);
        let before = self.planned.remove(&pair);
        match fields {
            Ok(record) => {
                self.records[index] = record;
                self.planned.insert(pair, Planned::Done(index));
                Read::Record(index)
            }
            Err(why) => {
                if matches!(before, Some(Planned::Open(_, true))) {
                    self.broken.get_or_insert_with(|| why.clone());
                }
                self.planned.insert(pair, Planned::Refused(why.clone()));
                Read::Refused(why)
            }
        }
    }

    fn fields(&mut self, written: &'a [Field], wanted: &'a [Field]) -> Result<Record, String> {
        let mut record = Record::default();
        let wants = |field: &Field, name: &str| field.name == name || field.aliases.iter().any(|alias| alias == name);
        for field in written {
            record.steps.push(match wanted.iter().find(|wanted| wants(wanted, &field.name)) {
                Some(wanted) => match self.plan(&field.of, &wanted.of) {
                    Read::Refused(why) => return Err(format!("the field {} {why}", field.name)),
                    read => Step { name: Some(wanted.name.clone()), optional: Schema::optional(&wanted.of), read },
                },
                None => Step { name: None, optional: true, read: self.passed_over(&field.of) },
            });
        }
        for field in wanted.iter().filter(|wanted| !written.iter().any(|field| wants(wanted, &field.name))) {
            match &field.default {
                Some(value) if value.is_null() => {}
                Some(value) => record.defaults.push((field.name.clone(), value.clone())),
                None => return Err(format!("the field {} is not written, and has no default to be read instead", field.name)),
            }
        }
        Ok(record)
    }

    /// What only the writer has is read as it is written, and dropped.
    fn passed_over(&mut self, of: &'a Type) -> Read {
        let reader = std::mem::replace(&mut self.reader, self.writer);
        let read = self.plan(of, of);
        self.reader = reader;
        read
    }
}

struct Reader<'p, 'b> {
    plan: &'p Plan,
    rest: &'b [u8],
    /// What the values may still take in memory, weighed as those of JSON are: a few bytes can say a million nulls.
    room: usize,
    depth: usize,
}

impl<'p, 'b> Reader<'p, 'b> {
    fn value(&mut self, read: &Read) -> Result<Json<'b>, String> {
        match read {
            Read::Null => Ok(Json::Null),
            Read::Boolean => match self.take(1)?[0] {
                0 => Ok(Json::Bool(false)),
                1 => Ok(Json::Bool(true)),
                other => Err(format!("the byte {other} is neither true nor false")),
            },
            Read::Whole(view) => self.whole(*view),
            Read::Float => {
                let number = f32::from_le_bytes(self.array()?);
                // The digits that mean it: as a double of its own, 0.1 would be 0.10000000149011612.
                number_of(number.to_string().parse().unwrap_or(f64::NAN))
            }
            Read::Double => number_of(f64::from_le_bytes(self.array()?)),
            Read::Bytes(size, view) => {
                let size = match size {
                    Some(size) => *size,
                    None => self.length()?,
                };
                self.bytes(size, *view)
            }
            Read::Symbol(symbols) => {
                let symbol = self.index(symbols.len(), "symbol of an enum")?;
                symbols[symbol].clone().map(Json::from)
            }
            Read::Union(branches) => {
                let branch = self.index(branches.len(), "branch of a union")?;
                self.value(&branches[branch])
            }
            Read::Refused(why) => Err(why.clone()),
            Read::List(_) | Read::Map(_) | Read::Record(_) => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(format!("the data is nested more than {DEEPEST} levels deep"));
                }
                let value = match read {
                    Read::List(items) => self.list(items),
                    Read::Map(values) => self.map(values),
                    Read::Record(index) => {
                        let plan = self.plan;
                        self.record(&plan.records[*index])
                    }
                    _ => Ok(Json::Null),
                };
                self.depth -= 1;
                value
            }
        }
    }

    fn whole(&mut self, view: View) -> Result<Json<'b>, String> {
        let number = self.long()?;
        // Without the number: it may be a person's, and this is logged.
        let bound = |what: &str| format!("is no {what}");
        match view {
            View::Int => i32::try_from(number).map(|number| Json::from(i64::from(number))).map_err(|_| bound("whole number of 32 bits")),
            View::Long => Ok(number.into()),
            View::Date => text::date(number).map(Json::from).ok_or_else(|| bound("date that there is")),
            View::Time(unit) => text::time(number, unit).map(Json::from).ok_or_else(|| bound("time that there is")),
        }
    }

    fn bytes(&mut self, size: usize, view: BytesView) -> Result<Json<'b>, String> {
        let bytes = self.take(size)?;
        self.weigh(size)?;
        match view {
            BytesView::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.into()),
                Err(e) => Err(format!("a text is not UTF-8: its byte {} is wrong", e.valid_up_to())),
            },
            BytesView::Latin1 => Ok(text::latin1(bytes).into()),
            BytesView::Decimal(scale) => text::decimal(bytes, scale).map(Json::from),
        }
    }

    fn list(&mut self, items: &Read) -> Result<Json<'b>, String> {
        let mut list = Vec::new();
        self.weigh(128)?;
        while let Some(count) = self.block()? {
            for _ in 0..count {
                self.weigh(64)?;
                list.push(self.value(items)?);
            }
        }
        Ok(Json::Array(list))
    }

    fn map(&mut self, values: &Read) -> Result<Json<'b>, String> {
        let mut map = Vec::new();
        self.weigh(640)?;
        while let Some(count) = self.block()? {
            for _ in 0..count {
                self.weigh(96)?;
                let size = self.length()?;
                let Json::String(name) = self.bytes(size, BytesView::Text)? else { continue };
                let value = self.value(values)?;
                map.push((name, value));
            }
        }
        Ok(Json::Object(Object::of(map)))
    }

    fn record(&mut self, record: &Record) -> Result<Json<'b>, String> {
        let mut object = Vec::with_capacity(record.steps.len() + record.defaults.len());
        self.weigh(640 + 96 * (record.steps.len() + record.defaults.len()))?;
        for Step { name, optional, read } in &record.steps {
            let value = self.value(read).map_err(|why| match name {
                Some(name) => format!("{name}: {why}"),
                None => why,
            })?;
            if let Some(name) = name
                && !(value.is_null() && *optional)
            {
                object.push((name.clone().into(), value));
            }
        }
        object.extend(record.defaults.iter().map(|(name, value)| (name.clone().into(), Json::from(value).into_owned())));
        Ok(Json::Object(Object::of(object)))
    }

    /// How many values come next; None behind the last block.
    fn block(&mut self) -> Result<Option<u64>, String> {
        match self.long()? {
            0 => Ok(None),
            // Its size in bytes follows, for those who pass over it.
            negative @ ..0 => self.long().map(|_| Some(negative.unsigned_abs())),
            count => Ok(Some(count.unsigned_abs())),
        }
    }

    fn index(&mut self, of: usize, what: &str) -> Result<usize, String> {
        let index = self.long()?;
        usize::try_from(index).ok().filter(|index| *index < of).ok_or_else(|| format!("there is no {what} with the number {index}"))
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| format!("{length} is no length"))
    }

    fn long(&mut self) -> Result<i64, String> {
        let mut number = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err(if self.rest.len() < 10 { CUT_OFF.into() } else { "a number is longer than 64 bits".into() })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| CUT_OFF.to_owned())
    }

    fn take(&mut self, size: usize) -> Result<&'b [u8], String> {
        match self.rest.split_at_checked(size) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(CUT_OFF.into()),
        }
    }

    fn weigh(&mut self, bytes: usize) -> Result<(), String> {
        self.room = self
            .room
            .checked_sub(bytes)
            .ok_or_else(|| format!("the body holds too many values: parsed it would take more than {} MiB of memory", MAX_WEIGHT >> 20))?;
        Ok(())
    }
}

const CUT_OFF: &str = "the body is cut off: its data does not end";

fn number_of(number: f64) -> Result<Json<'static>, String> {
    Number::from_f64(number).map(Json::Number).ok_or_else(|| "is no number that JSON has".to_owned())
}
