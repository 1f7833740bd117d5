package audit

import "errors"

// recorded is an error that stands in the record.
type recorded struct{ error }

func (r recorded) Unwrap() error { return r.error }

// Recorded marks err, so that nobody on its way up records it once more.
func Recorded(err error) error {
	if err == nil {
		return nil
	}
	return recorded{err}
}

// IsRecorded tells whether err stands in the record already.
func IsRecorded(err error) bool {
	_, ok := errors.AsType[recorded](err)
	return ok
}
