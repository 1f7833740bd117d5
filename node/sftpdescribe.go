package node

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	ft "devicetrust/node/filetransfer"

	"devicetrust/audit/event"
)

// describe gives the record of a request; without an Action, where none is
// wanted. It refuses what it does not know, and paths that are none.
func (t *transfer) describe(p request) (event.Event, *unwilling) {
	r := reader{Fields: ft.Fields{Rest: p.rest}}
	e := event.Event{Type: event.SFTP, Success: true}
	switch p.kind {
	case ft.Open:
		e.Action, e.Path = "open", r.path()
		e.Message = r.opening()
		r.hold(t, p.id, e.Path)
	case ft.Opendir:
		r.hold(t, p.id, r.path())
	case ft.Close:
		t.closed(r.Bytes())
	case ft.Setstat:
		e.Action, e.Path, e.Message = "setstat", r.path(), changes(r.Attributes())
	case ft.Fsetstat:
		e.Action, e.Path, e.Message = "fsetstat", r.held(t), changes(r.Attributes())
	case ft.Remove:
		e.Action, e.Path = "remove", r.path()
	case ft.Rmdir:
		e.Action, e.Path = "rmdir", r.path()
	case ft.Mkdir:
		e.Action, e.Path, e.Message = "mkdir", r.path(), changes(r.Attributes())
	case ft.Rename:
		e.Action, e.Path, e.TargetPath = "rename", r.path(), r.path()
	case ft.Symlink:
		// The target comes first (OpenSSH, PROTOCOL section 4.1).
		e.Action, e.TargetPath, e.Path = "symlink", r.path(), r.path()
	case ft.Extended:
		r.extended(&e)
	default:
		r.refuse(ft.StatusUnsupported, "unknown request")
	}
	if r.Short {
		r.refuse(ft.StatusFailure, "malformed request")
	}
	return e, r.no
}

// reader reads a request; no is set where it is to be refused.
type reader struct {
	ft.Fields
	no *unwilling
}

func (r *reader) refuse(code uint32, reason string) {
	if r.no == nil {
		r.no = &unwilling{code, reason}
	}
}

// path reads one as it is recorded. What no system call takes (path_resolution(7))
// is refused here: it may not fit a record.
func (r *reader) path() string {
	b := r.Bytes()
	if len(b) >= maxPath || bytes.IndexByte(b, 0) >= 0 {
		r.refuse(ft.StatusFailure, "no file can have this name")
		return ""
	}
	return recordable(string(b))
}

// hold remembers what is being opened, so that its handle has a name.
func (r *reader) hold(t *transfer, id uint32, path string) {
	if r.no != nil || r.Short {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch _, busy := t.opening[id]; {
	case busy:
		r.refuse(ft.StatusFailure, "the request's number is in use")
		delete(t.opening, id)
	case len(t.opening)+len(t.open) >= ft.MaxHandles:
		r.refuse(ft.StatusFailure, "too many open files")
	default:
		t.opening[id] = path
	}
}

// held reads a handle and gives the path that it stands for.
func (r *reader) held(t *transfer) string {
	handle := r.Bytes()
	t.mu.Lock()
	defer t.mu.Unlock()
	path, ok := t.open[string(handle)]
	if !ok {
		r.refuse(ft.StatusFailure, "no such handle")
	}
	return path
}

func (r *reader) opening() string {
	flags, a := r.Uint32(), r.Attributes()
	var words []string
	for _, f := range []struct {
		flag uint32
		word string
	}{
		{ft.OpenRead, "read"}, {ft.OpenWrite, "write"}, {ft.OpenAppend, "append"},
		{ft.OpenCreate, "create"}, {ft.OpenTruncate, "truncate"}, {ft.OpenNew, "exclusive"},
	} {
		if flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	if flags&ft.OpenCreate != 0 && a.Flags&ft.AttrMode != 0 {
		words = append(words, fmt.Sprintf("mode %04o", a.Mode&0o7777))
	}
	return strings.Join(words, ", ")
}

// changes are those of a setstat, in words.
func changes(a ft.Attributes) string {
	var words []string
	if a.Flags&ft.AttrSize != 0 {
		words = append(words, fmt.Sprintf("size %d", a.Size))
	}
	if a.Flags&ft.AttrOwner != 0 {
		words = append(words, fmt.Sprintf("owner %d:%d", a.UID, a.GID))
	}
	if a.Flags&ft.AttrMode != 0 {
		words = append(words, fmt.Sprintf("mode %04o", a.Mode&0o7777))
	}
	if a.Flags&ft.AttrTimes != 0 {
		words = append(words, "modified "+time.Unix(int64(a.Mtime), 0).UTC().Format(time.RFC3339))
	}
	return strings.Join(words, ", ")
}

// extended are those of OpenSSH (PROTOCOL section 4) that the child has, too.
func (r *reader) extended(e *event.Event) {
	switch r.String() {
	case "posix-rename@openssh.com":
		e.Action, e.Path, e.TargetPath = "posix-rename", r.path(), r.path()
	case "hardlink@openssh.com":
		e.Action, e.TargetPath, e.Path = "hardlink", r.path(), r.path()
	case "lsetstat@openssh.com":
		e.Action, e.Path, e.Message = "lsetstat", r.path(), changes(r.Attributes())
	case "statvfs@openssh.com", "fstatvfs@openssh.com", "fsync@openssh.com", "limits@openssh.com",
		"expand-path@openssh.com", "users-groups-by-id@openssh.com",
		"copy-data": // between files that are open
	default:
		r.refuse(ft.StatusUnsupported, "unknown request")
	}
}
