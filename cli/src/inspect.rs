//! Showing an approval to people
