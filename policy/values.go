package policy

import (
	"encoding/json"
	"errors"
)

// Values are what a label may be in a role. Documents write one value as a
// text and several as a list of texts.
type Values []string

var errValues = errors.New("a label's values are one text or a list of texts")

// MarshalJSON writes one value as a string, others as a list.
func (v Values) MarshalJSON() ([]byte, error) { return json.Marshal(v.plain()) }

// MarshalYAML writes one value as a text, others as a list.
func (v Values) MarshalYAML() (any, error) { return v.plain(), nil }

// UnmarshalJSON reads a string or a list of strings.
func (v *Values) UnmarshalJSON(data []byte) error {
	return v.read(func(into any) error { return json.Unmarshal(data, into) })
}

// UnmarshalYAML reads a text or a list of texts.
func (v *Values) UnmarshalYAML(unmarshal func(any) error) error { return v.read(unmarshal) }

func (v Values) plain() any {
	if len(v) == 1 {
		return v[0]
	}
	return append([]string{}, v...) // never null, and a plain list: Values would come back here
}

func (v *Values) read(unmarshal func(any) error) error {
	var one *string
	if err := unmarshal(&one); err == nil && one != nil {
		*v = Values{*one}
		return nil
	}
	var many []*string
	if err := unmarshal(&many); err != nil || many == nil {
		return errValues
	}
	read := make(Values, 0, len(many))
	for _, each := range many {
		if each == nil {
			return errValues
		}
		read = append(read, *each)
	}
	*v = read
	return nil
}
