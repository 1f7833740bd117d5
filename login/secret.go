package login

import (
	"fmt"
	"log/slog"
)

// Secret is a password, or a token that opens something. It does not print:
// whoever needs the text asks for it by Reveal. The zero value is empty and
// fits nothing.
type Secret struct{ text string }

// NewSecret wraps what a person typed, or what came over the wire.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal is the text, for the one place where it is handed over.
func (s Secret) Reveal() string { return s.text }

const hidden = "[secret]"

// Format prints a placeholder under every verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, hidden) }

// LogValue is the placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText is the placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
