//! streamll
