package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"
)

// node is a node whose logins have their home in the folder.
func node(t *testing.T, home string) *Remote {
	t.Helper()
	ours, theirs := net.Pipe()
	server, err := sftp.NewServer(theirs, sftp.WithServerWorkingDirectory(home))
	if err != nil {
		t.Fatal(err)
	}
	return serving(t, ours, server.Serve)
}

func serving(t *testing.T, ours net.Conn, serve func() error) *Remote {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); _ = serve() }()
	r, err := NewRemote("web-1", ours, ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); ours.Close(); <-done })
	return r
}

// copied runs a copy and gives what failed by itself.
func copied(t *testing.T, c Copy, target Place, sources ...Place) (failed []string, err error) {
	t.Helper()
	c.Failed = func(err error) { failed = append(failed, err.Error()) }
	err = c.Run(t.Context(), sources, target)
	return failed, err
}

func mustCopy(t *testing.T, c Copy, target Place, sources ...Place) {
	t.Helper()
	if failed, err := copied(t, c, target, sources...); err != nil || failed != nil {
		t.Fatalf("%v, %q", err, failed)
	}
}

// grow makes a tree to be copied.
func grow(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<18+1) // 4 MiB, and no whole number of parts
	for _, f := range []struct {
		name string
		mode fs.FileMode
		text []byte
	}{
		{"empty", 0o644, nil}, {"with space", 0o600, []byte("x")}, {"deep/er/large", 0o640, long}, {"run", 0o755, []byte("#!/bin/sh\n")},
		{"ro/read only", 0o444, []byte("r")}, {"*[?", 0o644, []byte("pattern")}, {"new\nline", 0o644, []byte("n")},
	} {
		path := filepath.Join(dir, f.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.text, f.mode), os.Chmod(path, f.mode)); err != nil {
			t.Fatal(err)
		}
		old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("with space", filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "ro"), 0o555)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = filepath.WalkDir(filepath.Dir(dir), func(p string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				os.Chmod(p, 0o700)
			}
			return nil
		})
	})
	return dir
}

// told is what there is in a tree: names, modes, sizes and, where they are
// wanted, times.
func told(t *testing.T, dir string, times bool) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%q %v", rel, info.Mode())
		if info.Mode().IsRegular() {
			line += fmt.Sprint(" ", info.Size())
			if times {
				line += " " + info.ModTime().UTC().Format(time.RFC3339)
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestATreeGoesThereAndBackAndFromNodeToNode(t *testing.T) {
	tree := grow(t)
	// A node's name with a line break is refused; that way is tried apart.
	if err := os.Remove(filepath.Join(tree, "new\nline")); err != nil {
		t.Fatal(err)
	}
	for _, preserve := range []bool{true, false} {
		one, two, back := t.TempDir(), t.TempDir(), t.TempDir()
		first, second := node(t, one), node(t, two)
		c := Copy{Recursive: true, Preserve: preserve}
		mustCopy(t, c, Place{first, "."}, Place{Local{}, tree})
		mustCopy(t, c, Place{second, "made"}, Place{first, "tree"})
		mustCopy(t, c, Place{Local{}, back}, Place{second, "made"})
		for _, got := range []string{filepath.Join(one, "tree"), filepath.Join(two, "made"), filepath.Join(back, "made")} {
			if diff := cmp.Diff(told(t, tree, preserve), told(t, got, preserve)); diff != "" {
				t.Errorf("preserve %v: %s", preserve, diff)
			}
			if err := exec.Command("diff", "-r", tree, got).Run(); err != nil {
				t.Error(err)
			}
		}
		// Again, over what is there: read-only folders are in the way, unless root.
		for _, dir := range []string{one, two, back} {
			filepath.WalkDir(dir, func(p string, d fs.DirEntry, _ error) error {
				if !d.IsDir() {
					os.Chmod(p, 0o600)
				}
				return nil
			})
		}
		mustCopy(t, c, Place{Local{}, back}, Place{second, "made"})
	}
}

func TestAPrivateFileIsNotMorePublicThere(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(here, "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := node(t, there)
	mustCopy(t, Copy{}, Place{r, "key"}, Place{Local{}, filepath.Join(here, "key")})
	mustCopy(t, Copy{}, Place{Local{}, filepath.Join(here, "back")}, Place{r, "key"})
	for _, path := range []string{filepath.Join(there, "key"), filepath.Join(here, "back")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// Nothing changes the mode afterwards, so that it is that of the opening.
func TestAFileIsOpenedWithItsMode(t *testing.T) {
	// Nothing in a file is taken for a request to open one.
	open := "\x00\x00\x00\x12\x03\x00\x00\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x08\x00\x00\x00\x00"
	here, there := t.TempDir(), t.TempDir()
	r := node(t, there)
	for text, mode := range map[string]fs.FileMode{"": 0o600, "x": 0o755, open: 0o640, strings.Repeat(open, 10000): 0o444} {
		name := fmt.Sprint(len(text))
		path := filepath.Join(here, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		mustCopy(t, Copy{}, Place{r, "."}, Place{Local{}, path})
		got, err := os.ReadFile(filepath.Join(there, name))
		info, statErr := os.Stat(filepath.Join(there, name))
		if err != nil || statErr != nil || string(got) != text || info.Mode() != mode {
			t.Errorf("%d bytes with %v, want %s with %v; %v", len(got), info.Mode(), name, mode, err)
		}
	}
}

func TestPatternsAreTheNodesFiles(t *testing.T) {
	there := t.TempDir()
	for _, name := range []string{"a.log", "b.log", "c.txt", "odd[1].log", "with space.log"} {
		if err := os.WriteFile(filepath.Join(there, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := node(t, there)
	for pattern, want := range map[string][]string{
		"*.log": {"a.log", "b.log", "odd[1].log", "with space.log"}, "?.txt": {"c.txt"}, "[ab].log": {"a.log", "b.log"},
		"odd[1].log": {"odd[1].log"}, `with\ space.log`: {"with space.log"}, "with space.log": {"with space.log"},
	} {
		here := t.TempDir()
		mustCopy(t, Copy{}, Place{Local{}, here}, Place{r, pattern})
		entries, _ := os.ReadDir(here)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", pattern, diff)
		}
	}
	failed, err := copied(t, Copy{}, Place{Local{}, t.TempDir()}, Place{r, "*.nothing"}, Place{r, "a.log"})
	if diff := cmp.Diff([]string{"web-1:*.nothing: no such file or directory"}, failed); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := copied(t, Copy{}, Place{Local{}, filepath.Join(there, "c.txt")}, Place{r, "*.log"}); err == nil || !strings.HasSuffix(err.Error(), "c.txt: not a directory") {
		t.Errorf("error %v", err)
	}
}

func TestAPatternMatchesWhatIsHiddenOnlyWhereItSaysSo(t *testing.T) {
	there := t.TempDir()
	for _, name := range []string{".rc", "a", ".d/.rc", ".d/b", "e/c", "e/.rc"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(there, name)), 0o700), os.WriteFile(filepath.Join(there, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r := node(t, there)
	for pattern, want := range map[string][]string{
		"?rc": {"?rc"}, "[.]rc": {"[.]rc"}, ".r*": {".rc"}, "*": {"a", "e"}, "./*": {"a", "e"}, "*/*": {"e/c"}, ".d/*": {".d/b"},
		".?/.*": {".d/.rc"}, "e/../*": {"a", "e"}, there + "//e/*": {there + "/e/c"},
	} {
		got, err := r.glob(pattern)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", pattern, err, diff)
		}
	}
	r = hostileNode(t, hostile{names: []string{".bashrc", "..", ".", "a"}})
	if got, err := r.glob("dir/*"); err != nil || cmp.Diff([]string{"dir/a"}, got) != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatCannotBeCopiedIsToldAndTheRestIs(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	fifo := filepath.Join(here, "fifo")
	if out, err := exec.Command("mkfifo", fifo, filepath.Join(there, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(here, "dir"), 0o700), os.WriteFile(filepath.Join(here, "file"), []byte("x"), 0o600),
		os.Symlink("nowhere", filepath.Join(here, "dangling")), os.Symlink(".", filepath.Join(here, "dir", "circle"))); err != nil {
		t.Fatal(err)
	}
	r := node(t, there)
	local := func(name string) Place { return Place{Local{}, filepath.Join(here, name)} }
	failed, err := copied(t, Copy{}, Place{r, "."}, local("fifo"), local("dir"), local("dangling"), local("missing"), local("file"))
	want := []string{
		fifo + ": not a regular file", filepath.Join(here, "dir") + ": not a regular file",
		filepath.Join(here, "dangling") + ": no such file or directory", filepath.Join(here, "missing") + ": no such file or directory",
	}
	if diff := cmp.Diff(want, failed); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if got, err := os.ReadFile(filepath.Join(there, "file")); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	failed, err = copied(t, Copy{}, local("got"), Place{r, "fifo"})
	if diff := cmp.Diff([]string{"web-1:fifo: not a regular file"}, failed); err != nil || diff != "" {
		t.Error(err, diff)
	}
	// Round in a circle.
	failed, err = copied(t, Copy{Recursive: true}, Place{r, "dir"}, local("dir"))
	if err != nil || len(failed) != 1 || !strings.Contains(failed[0], "directories deep") && !strings.Contains(failed[0], "too many levels") {
		t.Errorf("%v, %q", err, failed)
	}
	for _, target := range []string{"file/", "no/such", "newdir/"} {
		failed, err = copied(t, Copy{}, Place{r, target}, local("file"))
		if err == nil && len(failed) != 1 {
			t.Errorf("%s: copied", target)
		}
	}
}

func TestNothingIsCopiedOntoItself(t *testing.T) {
	there := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(there, "file"), []byte("x"), 0o600), os.Mkdir(filepath.Join(there, "dir"), 0o700),
		os.Symlink("file", filepath.Join(there, "link"))); err != nil {
		t.Fatal(err)
	}
	r := node(t, there)
	for from, to := range map[string]string{"file": "./file", "./file": ".", "dir": "dir"} {
		failed, err := copied(t, Copy{Recursive: true}, Place{r, to}, Place{r, from})
		if err != nil || len(failed) != 1 && from != "dir" {
			t.Errorf("%s to %s: %v, %q", from, to, err, failed)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(there, "file")); string(got) != "x" {
		t.Errorf("the file has %q", got)
	}
}

// hostile is a node that says what it likes.
type hostile struct {
	names []string
	// endless has no last name.
	endless bool
	content io.ReaderAt
	size    int64
}

type claim struct {
	name string
	dir  bool
	size int64
}

func (c claim) Name() string       { return c.name }
func (c claim) Size() int64        { return max(c.size, 5) }
func (c claim) ModTime() time.Time { return time.Unix(0, 0) }
func (c claim) IsDir() bool        { return c.dir }
func (c claim) Sys() any           { return nil }
func (c claim) Mode() fs.FileMode {
	if c.dir {
		return fs.ModeDir | 0o755
	}
	return fs.ModeSetuid | 0o777
}

func (h hostile) ListAt(to []os.FileInfo, at int64) (int, error) {
	if h.endless {
		for i := range to {
			to[i] = claim{name: strings.Repeat("x", 200)}
		}
		return len(to), nil
	}
	n := 0
	for ; n < len(to) && int(at)+n < len(h.names); n++ {
		to[n] = claim{name: h.names[int(at)+n]}
	}
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

type statOf struct{ claim }

func (s statOf) ListAt(to []os.FileInfo, at int64) (int, error) {
	if at > 0 || len(to) == 0 {
		return 0, io.EOF
	}
	to[0] = s.claim
	return 1, io.EOF
}

func (h hostile) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" {
		return h, nil
	}
	return statOf{claim{filepath.Base(r.Filepath), strings.HasSuffix(r.Filepath, "dir"), h.size}}, nil
}

func (h hostile) Fileread(*sftp.Request) (io.ReaderAt, error) { return h.content, nil }

func hostileNode(t *testing.T, h hostile) *Remote {
	t.Helper()
	if h.content == nil {
		h.content = strings.NewReader("owned")
	}
	ours, theirs := net.Pipe()
	return serving(t, ours, sftp.NewRequestServer(theirs, sftp.Handlers{FileGet: h, FileList: h}).Serve)
}

func TestNamesThatANodeMakesUpStayInTheTarget(t *testing.T) {
	around := t.TempDir()
	target := filepath.Join(around, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	names := []string{"../above", "/" + strings.TrimPrefix(filepath.Join(around, "absolute"), "/"), "a/..", "..", ".", "", "/", "nul\x00nul",
		"bell\x07", "esc\x1b[2J", "a/b", "good"}
	r := hostileNode(t, hostile{names: names})
	failed, err := copied(t, Copy{Recursive: true, Preserve: true}, Place{Local{}, target}, Place{r, "dir"})
	if err != nil {
		t.Fatal(err)
	}
	if len(failed) < 5 || !slices.ContainsFunc(failed, func(s string) bool { return strings.Contains(s, `"esc\x1b[2J", which is no name`) }) {
		t.Errorf("%q", failed)
	}
	for _, f := range failed {
		if strings.ContainsAny(f, "\x00\x1b\x07") {
			t.Errorf("%q has controls", f)
		}
	}
	// The package gives the last part of a name only, which is in the folder.
	got := told(t, around, false)
	for _, line := range got {
		if !strings.HasPrefix(line, `"target/dir/`) && !strings.HasPrefix(line, `"." `) && !strings.HasPrefix(line, `"target`) {
			t.Errorf("made: %s", line)
		}
		if strings.ContainsAny(line, "u") && strings.Contains(line, "-u") {
			t.Errorf("made to run as its owner: %s", line)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(target, "dir", "good")); string(got) != "owned" {
		t.Errorf("the rest is not copied: %q", got)
	}
	// By pattern.
	failed, err = copied(t, Copy{}, Place{Local{}, target}, Place{r, "dir/*"})
	if err != nil || len(failed) < 3 {
		t.Errorf("%v, %q", err, failed)
	}
	for _, name := range append(entries(t, target), entries(t, filepath.Join(target, "dir"))...) {
		if !isName(name) {
			t.Errorf("made: %q", name)
		}
	}
	if diff := cmp.Diff([]string{"target"}, entries(t, around)); diff != "" {
		t.Error(diff)
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestAListWithoutEndIsCutOff(t *testing.T) {
	for _, p := range []string{"dir", "dir/*"} {
		r := hostileNode(t, hostile{endless: true})
		_, err := copied(t, Copy{Recursive: true}, Place{Local{}, t.TempDir()}, Place{r, p})
		if !errors.Is(err, errListing) {
			t.Errorf("%s: error %v", p, err)
		}
	}
}

func TestFoldersWithoutAnEndAreLeft(t *testing.T) {
	r := hostileNode(t, hostile{names: []string{"dir"}})
	failed, err := copied(t, Copy{Recursive: true}, Place{Local{}, t.TempDir()}, Place{r, "dir"})
	if err != nil || len(failed) != 1 || !strings.Contains(failed[0], "more than 64 directories deep") {
		t.Errorf("%v, %q", err, failed)
	}
}

func TestWhatHasNoNameOfItsOwnIsCopiedIntoTheTarget(t *testing.T) {
	for _, source := range []string{".", "..", "sub/..", "/"} {
		around, there := t.TempDir(), t.TempDir()
		target := filepath.Join(around, "target")
		if err := errors.Join(os.Mkdir(target, 0o700), os.MkdirAll(filepath.Join(there, "sub"), 0o700)); err != nil {
			t.Fatal(err)
		}
		r := node(t, filepath.Join(there, "sub"))
		_, _ = copied(t, Copy{Recursive: source != "/"}, Place{Local{}, target}, Place{r, source})
		if diff := cmp.Diff([]string{"target"}, entries(t, around)); diff != "" {
			t.Errorf("%s: %s", source, diff)
		}
		if got := entries(t, target); source == ".." && cmp.Diff([]string{"sub"}, got) != "" {
			t.Errorf("%s: %q", source, got)
		}
	}
}

func TestOnlyNamesAreNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, ".hidden": true, "...": true, "with space": true, "ünï": true, "-rf": true, "not\xffutf8": true,
		"": false, ".": false, "..": false, "/": false, "../a": false, "a/b": false, "/a": false, "a\x00": false, "\n": false, "\x7f": false, "\u0085": false,
	} {
		if isName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestPathsAreReadAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]string{"": ".", "~": ".", "~/": "./", "~/a": "./a", "~//etc": "./etc", "a": "a", "/a": "/a", "a~": "a~", "./~x": "./~x"} {
		if got, err := Path(text); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"~bob", "~bob/x", "a\x00"} {
		if got, err := Path(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestADiskThatIsFullIsSaid(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	here := t.TempDir()
	for _, size := range []int{10, 1 << 20} {
		file := filepath.Join(here, "file")
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		r := node(t, here)
		failed, err := copied(t, Copy{}, Place{Local{}, "/dev/full"}, Place{r, "file"})
		if diff := cmp.Diff([]string{"/dev/full: no space left on device"}, failed); err != nil || diff != "" {
			t.Error(err, diff)
		}
		failed, err = copied(t, Copy{}, Place{r, "/dev/full"}, Place{Local{}, file})
		if err != nil || len(failed) != 1 || !strings.HasPrefix(failed[0], "web-1:/dev/full: ") || !strings.Contains(failed[0], "no space left on device") {
			t.Errorf("%v, %q", err, failed)
		}
	}
}

// gap gives less than it is asked for once, and goes on after that.
type gap struct {
	io.ReaderAt
	at int
}

func (g gap) ReadAt(b []byte, at int64) (int, error) {
	n, err := g.ReaderAt.ReadAt(b, at)
	if at == int64(g.at) {
		return n - 1, io.EOF
	}
	return n, err
}

func TestACopyWithAGapIsNoCopy(t *testing.T) {
	here, there := Place{Local{}, filepath.Join(t.TempDir(), "log")}, Place{node(t, t.TempDir()), "log"}
	gaps := []string{"web-1:log: " + errGaps.Error()}
	for _, tt := range []struct {
		size, at int
		claimed  int64 // when it was opened
		target   Place
		want     []string
	}{
		{8 * partSize, partSize, 8 * partSize, here, gaps},
		{8 * partSize, partSize, 8 * partSize, there, gaps},
		{8*partSize + 7, partSize, 8 * partSize, here, gaps},
		{8*partSize + 7, 7 * partSize, 8 * partSize, here, gaps},
		{8*partSize + 7, 0, 8 * partSize, here, gaps},
		{8*partSize + 7, -1, 8 * partSize, here, nil},
		{8*partSize + 7, -1, 8 * partSize, there, nil},
		{8 * partSize, -1, 8 * partSize, here, nil},
		// It is read one part after the other, and from where it got to.
		{8*partSize + 7, partSize, 5, here, nil},
	} {
		h := hostile{content: gap{bytes.NewReader(make([]byte, tt.size)), tt.at}, size: tt.claimed}
		failed, err := copied(t, Copy{}, tt.target, Place{hostileNode(t, h), "log"})
		if diff := cmp.Diff(tt.want, failed); err != nil || diff != "" {
			t.Errorf("%+v: %v, %s", tt, err, diff)
		}
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Copy{Failed: func(error) {}}.Run(ctx, []Place{{Local{}, grow(t) + "/empty"}}, Place{node(t, t.TempDir()), "."})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
