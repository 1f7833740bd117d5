package resource

import (
	"encoding/base64"
	"errors"
)

// Bytes is base64 text in YAML and in JSON.
type Bytes []byte

// MarshalText is b in base64 (RFC 4648 section 4).
func (b Bytes) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads base64 with its padding.
func (b *Bytes) UnmarshalText(text []byte) error {
	decoded, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return errors.New("not base64 text")
	}
	*b = decoded
	return nil
}
