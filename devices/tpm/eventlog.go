package tpm

import (
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// NoEventLog sends none.
const NoEventLog = "off"

// measurer is a line to a TPM whose firmware event log the system has.
type measurer interface{ measurements() ([]byte, error) }

// eventLog gives what the firmware measured: from the file at path, where one
// is named, or where none is, as the system has it for the TPM that is open.
// There it may be none, as often root alone can read it; a file that somebody
// named must be readable.
func (t *TPM) eventLog(path string) ([]byte, error) {
	switch path {
	case NoEventLog:
		return nil, nil
	case "":
		m, ok := t.ch.line.(measurer)
		if !ok {
			return nil, nil
		}
		log, err := m.measurements()
		if err != nil {
			return nil, nil //nolint:nilerr // see above
		}
		return log, nil
	}
	log, err := readEventLog(path)
	if err != nil {
		return nil, &refusal{
			Refusal: api.Refuse(connect.CodeFailedPrecondition, "cannot read the event log %q: %v", path, reason(err)).
				WithHint("Correct or unset DTSH_TPM_EVENT_LOG; set to %s, none is sent.", NoEventLog),
			cause: err,
		}
	}
	return log, nil
}

// readEventLog gives a log no larger than the server takes.
func readEventLog(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	log, err := io.ReadAll(io.LimitReader(f, maxEventLog+1))
	if err != nil {
		return nil, err
	}
	if len(log) > maxEventLog {
		return nil, fmt.Errorf("it has more than %d bytes", maxEventLog)
	}
	return log, nil
}
