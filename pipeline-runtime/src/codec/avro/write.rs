//! JSON becomes Avro's bytes, as a schema says. What does not fit is named by its path, as the contract names it.

use super::schema::{Field, Schema, Shape, Type};
use super::text;
use crds::json::{Json, Object};

/// Why a value is none of the schema's, and where: `data.items[1].quantity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    pub path: String,
    pub message: String,
}

impl Unfit {
    fn here(message: impl Into<String>) -> Unfit {
        Unfit { path: String::new(), message: message.into() }
    }

    fn below(self, step: &str) -> Unfit {
        Unfit { path: format!("{step}{}", self.path), ..self }
    }
}

/// Appends the bytes of the data. On a mistake what was appended is of no use.
pub fn write(schema: &Schema, data: &Json<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
    Writer { schema, out }.value(&schema.root, data).map_err(|unfit| unfit.below("data"))
}

struct Writer<'a> {
    schema: &'a Schema,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn value(&mut self, of: &Type, value: &Json<'_>) -> Result<(), Unfit> {
        let must = || Unfit::here(format!("must be {}", self.schema.describe(of)));
        match of {
            Type::Null => return if value.is_null() { Ok(()) } else { Err(must()) },
            Type::Boolean => self.out.push(u8::from(value.as_bool().ok_or_else(must)?)),
            Type::Int => {
                let number = whole(value).and_then(|n| i32::try_from(n).ok()).ok_or_else(must)?;
                self.long(number.into());
            }
            Type::Long => {
                let number = whole(value).ok_or_else(must)?;
                self.long(number);
            }
            Type::Float => {
                let number = value.as_f64().map(|n| n as f32).filter(|n| n.is_finite()).ok_or_else(must)?;
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Type::Double => {
                let number = value.as_f64().ok_or_else(must)?;
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Type::String => {
                let text = value.as_str().ok_or_else(must)?;
                self.bytes(text.as_bytes());
            }
            Type::Bytes => {
                let bytes = value.as_str().and_then(text::bytes).ok_or_else(must)?;
                self.bytes(&bytes);
            }
            Type::Decimal(decimal) => {
                let bytes = text::decimal_bytes(value, *decimal).ok_or_else(must)?;
                match decimal.size {
                    Some(_) => self.out.extend_from_slice(&bytes),
                    None => self.bytes(&bytes),
                }
            }
            Type::Date => {
                let days = text::days(value).ok_or_else(must)?;
                self.long(days.into());
            }
            Type::Timestamp(unit) => {
                let since = text::since_1970(value, *unit).ok_or_else(must)?;
                self.long(since);
            }
            Type::Array(items) => {
                let all = value.as_array().ok_or_else(must)?;
                self.block(all.len());
                for (index, one) in all.iter().enumerate() {
                    self.value(items, one).map_err(|unfit| unfit.below(&format!("[{index}]")))?;
                }
                self.end();
            }
            Type::Map(values) => {
                let all = value.as_object().ok_or_else(must)?;
                self.block(all.len());
                for (name, one) in all {
                    self.bytes(name.as_bytes());
                    self.value(values, one).map_err(|unfit| unfit.below(&format!(".{name}")))?;
                }
                self.end();
            }
            Type::Union(branches) => return self.union(of, branches, value),
            Type::Named(index) => match &self.schema.named(*index).is {
                Shape::Record(fields) => return self.record(fields, value.as_object().ok_or_else(must)?),
                Shape::Enum { symbols, .. } => {
                    let symbol = value.as_str().and_then(|text| symbols.iter().position(|symbol| symbol == text)).ok_or_else(must)?;
                    self.long(symbol as i64);
                }
                Shape::Fixed(size) => {
                    let bytes = value.as_str().and_then(text::bytes).filter(|bytes| bytes.len() == *size).ok_or_else(must)?;
                    self.out.extend_from_slice(&bytes);
                }
            },
        }
        Ok(())
    }

    fn record(&mut self, fields: &[Field], object: &Object<'_>) -> Result<(), Unfit> {
        let mut found = 0;
        for field in fields {
            let given = object.get(&field.name);
            found += usize::from(given.is_some());
            let default;
            let value = match (given, &field.default) {
                (Some(value), _) => value,
                (None, Some(known)) => {
                    default = Json::from(known);
                    &default
                }
                (None, None) if Schema::optional(&field.of) => &Json::Null,
                (None, None) => return Err(Unfit::here("is required").below(&format!(".{}", field.name))),
            };
            self.value(&field.of, value).map_err(|unfit| unfit.below(&format!(".{}", field.name)))?;
        }
        if found == object.len() {
            return Ok(());
        }
        // Left out it would be lost, and nobody told.
        let unknown = object.keys().find(|name| fields.iter().all(|field| field.name != *name)).unwrap_or_default();
        Err(Unfit::here("is not in the Avro schema of this topic").below(&format!(".{unknown}")))
    }

    /// The first branch that it fits.
    fn union(&mut self, of: &Type, branches: &[Type], value: &Json<'_>) -> Result<(), Unfit> {
        let from = self.out.len();
        let mut reasons = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            self.long(index as i64);
            match self.value(branch, value) {
                Ok(()) => return Ok(()),
                Err(unfit) if *branch != Type::Null => reasons.push(unfit),
                Err(_) => {}
            }
            self.out.truncate(from);
        }
        // Where there is one thing that it could have been, that one says what is wrong.
        match <[Unfit; 1]>::try_from(reasons) {
            Ok([only]) => Err(only),
            Err(_) => Err(Unfit::here(format!("must be {}", self.schema.describe(of)))),
        }
    }

    fn block(&mut self, count: usize) {
        if count > 0 {
            self.long(count as i64);
        }
    }

    fn end(&mut self) {
        self.out.push(0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.long(bytes.len() as i64);
        self.out.extend_from_slice(bytes);
    }

    /// Zigzag, then seven bits a byte.
    fn long(&mut self, number: i64) {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }
}

/// 3.0 is a whole number, as in a JSON Schema.
fn whole(value: &Json<'_>) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT).map(|n| n as i64))
}
