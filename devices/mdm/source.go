package mdm

import (
	"context"
	"errors"
	"iter"
	"time"

	"devicetrust/api"
	"devicetrust/devices"
)

// Source gives the records of a device management system.
type Source interface {
	// Pages gives what changed since then, or all where since is zero; a source
	// that cannot tell gives all. It ends with an error where it cannot be
	// sure that it has given everything, and with nothing after that.
	Pages(ctx context.Context, since time.Time) iter.Seq2[[]devices.SyncRecord, error]
}

var _, _, _ Source = (*jamf)(nil), (*intune)(nil), (*file)(nil)

// at says where in a source a failure happened.
func at(err error, format string, args ...any) error {
	if _, ok := errors.AsType[*api.Refusal](err); !ok {
		return err // the run was ended
	}
	return failed(format+": %v", append(args, err)...)
}
