package files

import (
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/pkg/sftp"

	"devicetrust/api"
)

// Remote is a node's file system, as its SFTP server shows it. Paths that do
// not begin with "/" are in the login's home.
type Remote struct {
	name   string
	client *sftp.Client
	meter  *meter
	opener *opener
}

// NewRemote speaks SFTP with the node called name. Closing it closes w.
func NewRemote(name string, r io.Reader, w io.WriteCloser) (*Remote, error) {
	m, o := &meter{from: r}, &opener{WriteCloser: w}
	c, err := sftp.NewClientPipe(m, o, sftp.MaxPacketChecked(partSize), sftp.UseConcurrentWrites(true), sftp.UseFstat(true))
	if err != nil {
		return nil, api.Refuse(connect.CodeUnavailable, "%s does not transfer files: %s", name, reason(err)).
			WithHint("Your roles may not allow it, or the server has no SFTP.")
	}
	return &Remote{name: name, client: c, meter: m, opener: o}, nil
}

// Close ends the conversation.
func (r *Remote) Close() error { return r.client.Close() }

// Path reads a path as a person writes it: "~" and nothing are the login's
// home.
func Path(text string) (string, error) {
	if rest, ok := strings.CutPrefix(text, "~/"); ok {
		text = "./" + strings.TrimLeft(rest, "/")
	}
	if text == "" || text == "~" {
		return ".", nil
	}
	if strings.ContainsRune(text, 0) {
		return "", api.Refuse(connect.CodeInvalidArgument, "%q cannot be a path", text)
	}
	if strings.HasPrefix(text, "~") {
		return "", api.Refuse(connect.CodeInvalidArgument, "%q is in somebody's home, which is not known here", text).
			WithHint("Name the folder in full; a file whose name begins with ~ is ./~…")
	}
	return text, nil
}

func (r *Remote) shown(p string) string               { return r.name + ":" + p }
func (r *Remote) join(dir, name string) string        { return path.Join(dir, name) }
func (r *Remote) base(p string) string                { return path.Base(p) }
func (r *Remote) real(p string) (string, error)       { return r.client.RealPath(p) }
func (r *Remote) stat(p string) (fs.FileInfo, error)  { return r.client.Stat(p) }
func (r *Remote) open(p string) (file, error)         { return openedRemote(r.client.Open(p)) }
func (r *Remote) mkdir(p string) error                { return r.client.Mkdir(p) }
func (r *Remote) chmod(p string, m fs.FileMode) error { return r.client.Chmod(p, m) }
func (r *Remote) chtimes(p string, t time.Time) error { return r.client.Chtimes(p, t, t) }

func (r *Remote) list(dir string) ([]string, error) {
	r.meter.begin()
	defer r.meter.end()
	entries, err := r.client.ReadDir(dir)
	if r.meter.exceeded() {
		return nil, errListing
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// glob matches as scp does: where nothing matches, the pattern may be the very
// name.
func (r *Remote) glob(pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, `*?[\`) {
		return []string{pattern}, nil
	}
	r.meter.begin()
	defer r.meter.end()
	found, err := r.client.Glob(pattern)
	if r.meter.exceeded() {
		return nil, errListing
	}
	found = slices.DeleteFunc(found, func(p string) bool { return !named(pattern, p) })
	if err != nil || len(found) == 0 {
		return []string{pattern}, nil // what is no pattern is a name
	}
	slices.Sort(found)
	return found, nil
}

// named tells whether pattern also names what it matches: a name that begins
// with a dot only where the pattern has that dot too, as shells have it. Else
// "*" into a home would bring a node's .bashrc along.
func named(pattern, found string) bool {
	parts, names := strings.Split(path.Clean(pattern), "/"), strings.Split(found, "/")
	if len(parts) != len(names) {
		return false
	}
	for i, name := range names {
		if strings.HasPrefix(name, ".") && !strings.HasPrefix(strings.TrimPrefix(parts[i], `\`), ".") {
			return false
		}
	}
	return true
}

func (r *Remote) create(p string, mode fs.FileMode) (file, error) {
	r.opener.mode = mode
	return openedRemote(r.client.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC))
}

func openedRemote(f *sftp.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

var errListing = api.Refuse(connect.CodeResourceExhausted, "the node lists more files than fit").
	WithHint("Name them by pattern or folder by folder.")

// meter ends a conversation in which a node sends more than maxListing for one
// list.
type meter struct {
	from io.Reader

	mu     sync.Mutex
	listed int64 // since begin; meaningless where !listing
	// listing is whether a list is being read.
	listing, over bool
}

func (m *meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listing, m.listed = true, 0
}

func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listing = false
}

func (m *meter) exceeded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.from.Read(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listing {
		m.listed += int64(n)
		m.over = m.over || m.listed > maxListing
	}
	if m.over {
		return 0, errListing
	}
	return n, err
}
