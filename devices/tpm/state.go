package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// stateVersion is of the state file; another one is refused. Version 1 had
// attestation keys under the storage key.
const stateVersion = 2

// staleSuffix is of the file that keeps the enrollments before the last one.
const staleSuffix = ".stale"

// state is the file that remembers a machine's enrollments. There is no key in
// it, only what the TPM makes one from, and another TPM makes another.
type state struct {
	Version int `json:"version"`
	// Clusters by name: a machine may be enrolled in several, with a key for
	// each, so that no cluster can have one sign for another.
	Clusters map[string]enrollment `json:"clusters"`
}

type enrollment struct {
	Enrollment
	// Unique is what the attestation key is made from.
	Unique []byte `json:"unique"`
}

// Enrollment is what a machine knows of its enrollment in a cluster.
type Enrollment struct {
	CredentialID string `json:"credential_id"`
	DeviceID     string `json:"device_id"`
	AssetTag     string `json:"asset_tag"`
}

// Enrolled tells what the state file at path knows of the enrollment in
// cluster, without asking the TPM; ErrNotEnrolled where it knows none.
func Enrolled(path, cluster string) (Enrollment, error) {
	e, err := remembered(path, cluster)
	return e.Enrollment, err
}

func remembered(path, cluster string) (enrollment, error) {
	s, err := readState(path)
	if err != nil {
		return enrollment{}, err
	}
	e, ok := s.Clusters[cluster]
	if !ok {
		return enrollment{}, notEnrolled(cluster)
	}
	return e, nil
}

func readState(path string) (state, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return emptyState(), nil
	}
	if err != nil {
		return state{}, forbiddenState(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return state{}, forbiddenState(path, err)
	}
	// An earlier version has keys that this one does not know.
	var old struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(data, &old) == nil && old.Version > 0 && old.Version < stateVersion {
		return state{}, earlierState()
	}
	s := state{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return state{}, unreadableState(path, err)
	}
	if s.Version != stateVersion {
		return state{}, unreadableState(path, fmt.Errorf("it has version %d, this program knows %d", s.Version, stateVersion))
	}
	if s.Clusters == nil {
		return emptyState(), nil
	}
	return s, nil
}

// readToReplace is readState for an enrollment, which takes the place of an
// earlier version's.
func readToReplace(path string) (s state, isEarlier bool, err error) {
	s, err = readState(path)
	if errors.Is(err, errEarlierState) {
		return emptyState(), true, nil
	}
	return s, false, err
}

func emptyState() state {
	return state{Version: stateVersion, Clusters: map[string]enrollment{}}
}

// reserved is all that remembering an enrollment needs of the disk. Remember
// it there, and release it in any case.
type reserved struct {
	path string
	// file takes the state file's place; it is as large as that may become.
	file *os.File
	// aside is another name of the state file as it is; empty where there is
	// no such file, or no second names.
	aside string
}

// CanRemember tells, before a token is made for it, whether an enrollment could
// be remembered in the state file at path. The errors are *api.Refusal.
func CanRemember(path string) error {
	r, err := reserve(path)
	if err != nil {
		return err
	}
	r.release()
	return nil
}

// reserve is for before an enrollment: a full disk or a folder that cannot be
// written to is found out while the token is good, and whoever fills the disk
// later cannot part what the server knows from what the machine knows.
func reserve(path string) (*reserved, error) {
	s, _, err := readToReplace(path)
	if err != nil {
		return nil, err
	}
	data, err := s.marshal()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unwritableState(path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return nil, unwritableState(path, err)
	}
	r := &reserved{path: path, file: f}
	_, err = f.Write(make([]byte, len(data)+maxEnrollment))
	if err := errors.Join(err, f.Sync()); err != nil {
		r.release()
		return nil, unwritableState(path, err)
	}
	if aside := f.Name() + staleSuffix; os.Link(path, aside) == nil {
		r.aside = aside
	}
	return r, nil
}

// release removes what was not used.
func (r *reserved) release() {
	// After remember there is little left; what stays is of no harm.
	_ = r.file.Close()
	_ = os.Remove(r.file.Name())
	if r.aside != "" {
		_ = os.Remove(r.aside)
	}
}

// remember writes the enrollment of cluster into the file: after a power cut
// there is either the old one or the new one. The file as it was is set aside
// where that replaces an enrollment.
func (r *reserved) remember(lock func() (unlock func()), cluster string, e enrollment) error {
	if lock != nil {
		defer lock()()
	}
	s, isEarlier, err := readToReplace(r.path)
	if err != nil {
		return err
	}
	_, replaces := s.Clusters[cluster]
	s.Clusters[cluster] = e
	data, err := s.marshal()
	if err != nil {
		return err
	}
	if err := r.replace(data, replaces || isEarlier); err != nil {
		return unwritableState(r.path, err)
	}
	return nil
}

func (r *reserved) replace(data []byte, setAside bool) error {
	_, err := r.file.WriteAt(data, 0)
	if err := errors.Join(err, r.file.Truncate(int64(len(data))), r.file.Sync(), r.file.Close()); err != nil {
		return err
	}
	if setAside {
		before := r.aside
		if before == "" {
			before = r.path
		}
		if err := os.Rename(before, r.path+staleSuffix); err != nil {
			return err
		}
	}
	if err := os.Rename(r.file.Name(), r.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(r.path))
}

func (s state) marshal() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err
}
