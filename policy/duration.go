package policy

import (
	"errors"
	"fmt"
	"time"
)

// Duration is a length of time as documents write it: "30h", "1h30m".
// The zero value is unset.
type Duration time.Duration

// ParseDuration reads s, which must be longer than nothing; "" is an error.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a length of time such as 30m or 12h", s)
	}
	if d <= 0 {
		return 0, fmt.Errorf("%q is not longer than nothing", s)
	}
	return Duration(d), nil
}

// String is d as documents write it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is for JSON and YAML. A negative length cannot be read back, so
// it is not written either.
func (d Duration) MarshalText() ([]byte, error) {
	if d < 0 {
		return nil, errors.New("a length of time is negative")
	}
	return []byte(d.String()), nil
}

// UnmarshalText is for JSON and YAML: see ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
