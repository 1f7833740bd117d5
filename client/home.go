package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// Home is the folder that holds a person's profiles, keys and device state.
// It appears on the first write.
type Home struct {
	// Chip is the TPM that has the keys of logins; the system's own unless it
	// is set to another.
	Chip *Chip

	dir string // absolute
}

// OpenHome takes the folder at dir, which need not exist. A folder that other
// people could write to is refused: they could plant keys and authorities.
func OpenHome(dir string) (*Home, error) {
	if dir == "" {
		return nil, api.Refuse(connect.CodeInvalidArgument, "cannot tell where to keep profiles: neither DTSH_HOME nor a home directory is set").
			WithHint("Set DTSH_HOME to a folder of your own.")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("home %q: %w", dir, err)
	}
	info, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Home{Chip: NewChip(""), dir: abs}, nil
	case err != nil:
		return nil, unreadable(abs, err)
	case !info.IsDir():
		return nil, api.Refuse(connect.CodeFailedPrecondition, "cannot use %q: it is not a folder", abs).
			WithHint("Set DTSH_HOME to a folder of your own.")
	}
	if err := checkOwn(abs, info, 0o022); err != nil {
		return nil, err
	}
	return &Home{Chip: NewChip(""), dir: abs}, nil
}

// Dir is the folder's absolute path.
func (h *Home) Dir() string { return h.dir }

// agentSocket is the agent's (package client/agent), in a home whose path leaves
// room for it.
const agentSocket = "agent.sock"

// DeviceState is where the TPM's enrollment is kept. It survives logout: it
// belongs to the machine, not to a login.
func (h *Home) DeviceState() string { return h.path("device", "state.json") }

func (h *Home) path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// folder makes a folder under the home, and the home where it is not there.
func (h *Home) folder(elem ...string) error {
	dir := h.path(elem...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unwritable(dir, err)
	}
	if err := h.makePrivate(); err != nil {
		return unwritable(h.dir, err)
	}
	return nil
}

// makePrivate closes a home that was there before to others: what clusters and
// names a person has is theirs. A folder that holds more than ours, as a home
// directory that DTSH_HOME names by mistake, keeps its permissions; no private
// file of ours depends on them.
func (h *Home) makePrivate() error {
	info, err := os.Stat(h.dir)
	if err != nil || !othersEnter(info) {
		return err
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{"current-profile", "profiles", "keys", "device", lockFileName, agentSocket, agentSocket + ".lock", agentLogFile}, e.Name()) {
			return nil
		}
	}
	return os.Chmod(h.dir, 0o700)
}

// read returns the content of one of our files, fs.ErrNotExist where there is
// none.
func (h *Home) read(elem ...string) ([]byte, error) {
	return readBounded(h.path(elem...))
}

// readPrivate is read for a private key: others must not be able to read it.
func (h *Home) readPrivate(elem ...string) ([]byte, error) {
	path := h.path(elem...)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkOwn(path, info, 0o077); err != nil {
		return nil, err
	}
	return readBounded(path)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStored+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxStored {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "cannot read %q: it has more than %d bytes", path, maxStored)
	}
	return data, nil
}

// write replaces a file as a whole: whoever reads it sees the old content or
// the new, also after a power cut.
func (h *Home) write(data []byte, elem ...string) error {
	path := h.path(elem...)
	if err := h.folder(elem[:len(elem)-1]...); err != nil {
		return err
	}
	if err := writeFile(path, data); err != nil {
		return unwritable(path, err)
	}
	return nil
}

func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is none
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func unwritable(path string, err error) error {
	return api.Refuse(connect.CodeFailedPrecondition, "cannot write %q: %s", path, reason(err)).
		WithHint("Make room and check the permissions of the folder, or set DTSH_HOME to another one.")
}

func unreadable(path string, err error) error {
	return api.Refuse(connect.CodeFailedPrecondition, "cannot read %q: %s", path, reason(err)).
		WithHint("Check the permissions of the folder, or set DTSH_HOME to another one.")
}

// reason is err without the operation and the path, which the sentence around
// it already tells.
func reason(err error) string {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	return err.Error()
}
