// Package api holds the wire between our programs: the protobuf services,
// their generated code in dtv1, and the one form in which a refusal travels.
package api

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
)

// Refusal is an error meant for the person who asked: Message says what was
// refused and why, in one line that is safe to show; Hint, where not empty,
// says what to do about it. Whatever is not a Refusal is shown as an
// internal error and goes to the log in full.
type Refusal struct {
	Code    connect.Code
	Message string
	Hint    string
}

func (r *Refusal) Error() string { return r.Message }

// Refuse makes a Refusal without a hint. Peer text in args belongs in %q.
func Refuse(code connect.Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of r that says what to do.
func (r *Refusal) WithHint(format string, args ...any) *Refusal {
	c := *r
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// ToWire turns a handler's error into what the caller may see. The second
// result is false where err was no Refusal: then the wire error only says
// "internal error" and the caller of ToWire logs err.
func ToWire(err error) (*connect.Error, bool) {
	var r *Refusal
	if !errors.As(err, &r) {
		var ce *connect.Error
		if errors.As(err, &ce) {
			return ce, true
		}
		return connect.NewError(connect.CodeInternal, errors.New("internal error; the server's log has the details")), false
	}
	ce := connect.NewError(r.Code, errors.New(r.Message))
	if r.Hint != "" {
		if d, err := connect.NewErrorDetail(&dtv1.ErrorInfo{Hint: r.Hint}); err == nil {
			ce.AddDetail(d)
		}
	}
	return ce, true
}

// FromWire turns a client's error back into a Refusal; other errors, and
// connect errors made on the client's side (no connection, say), come back
// as they are.
func FromWire(err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) || !connect.IsWireError(ce) {
		return err
	}
	r := &Refusal{Code: ce.Code(), Message: ce.Message()}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*dtv1.ErrorInfo); ok {
				r.Hint = info.GetHint()
			}
		}
	}
	return r
}
