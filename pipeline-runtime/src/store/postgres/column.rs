//! A column of many rows, as an array.

/// One value for each row; None: NULL.
pub type Column<T> = Vec<Option<T>>;

/// A column of nothing but NULL is not sent: where arrays are unfolded side by side, rows beyond the end of one have NULL there.
pub fn sent<T>(column: Column<T>) -> Option<Column<T>> {
    column.iter().any(Option::is_some).then_some(column)
}
