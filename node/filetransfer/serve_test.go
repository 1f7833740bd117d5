package filetransfer

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// request is a packet with number 7 and fields: texts, numbers, a handle.
func request(kind Kind, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, byte(kind), 0, 0, 0, 7}
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = appendText(b, f)
		case []byte:
			b = append(b, f...)
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(f))
		case int64:
			b = binary.BigEndian.AppendUint64(b, uint64(f))
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-LengthSize))
	return b
}

// noon is when the tests are, for what they are asked.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.Local)

var begin = []byte("\x00\x00\x00\x05\x01\x00\x00\x00\x03")

// Handles as they are given, one after the other.
const first, second = "\x00\x00\x00\x01", "\x00\x00\x00\x02"

// answer is a packet of ours.
type answer struct {
	kind Kind
	Fields
}

func (a answer) status() (uint32, string) { return a.Uint32(), a.String() }

// talk gives the answers to requests.
func talk(t testing.TB, requests ...[]byte) ([]answer, error) {
	t.Helper()
	var out bytes.Buffer
	err := Serve(bytes.NewReader(append(bytes.Clone(begin), bytes.Join(requests, nil)...)), &out, "/home/me", func() time.Time { return noon })
	var all []answer
	for b := out.Bytes(); len(b) > 0; {
		size := binary.BigEndian.Uint32(b)
		if size > MaxPacket || int(size) > len(b)-LengthSize {
			t.Fatalf("an answer of %d bytes where there are %d", size, len(b))
		}
		all = append(all, answer{Kind(b[4]), Fields{Rest: b[9 : 4+size]}})
		b = b[4+size:]
	}
	if len(all) == 0 || all[0].kind != Version {
		t.Fatalf("no version: %v", err)
	}
	return all[1:], err
}

func mustTalk(t testing.TB, requests ...[]byte) []answer {
	t.Helper()
	answers, err := talk(t, requests...)
	if err != nil || len(answers) != len(requests) {
		t.Fatalf("%d answers to %d requests, %v", len(answers), len(requests), err)
	}
	return answers
}

func tempFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestARequestThatLacksAFieldIsAnsweredAndNotDone(t *testing.T) {
	path := tempFile(t, "text")
	whole := [][]byte{
		request(Open, path, OpenRead|OpenWrite|OpenTruncate, AttrMode, 0o600), request(Setstat, path, AttrSize, int64(0)),
		request(Remove, path), request(Rename, path, path+"2"), request(Symlink, path, path+"2"), request(Mkdir, path+"2", 0),
		request(Rmdir, path), request(Opendir, path), request(Readlink, path), request(Realpath, path), request(Stat, path),
		request(Extended, "posix-rename@openssh.com", path, path+"2"), request(Extended, "hardlink@openssh.com", path, path+"2"),
		request(Extended, "lsetstat@openssh.com", path, AttrTimes, 0, 0), request(Extended, "statvfs@openssh.com", path),
		request(Extended, "expand-path@openssh.com", path), request(Extended, "users-groups-by-id@openssh.com", "", ""),
		request(Read, first, int64(0), 1), request(Write, first, int64(0), "x"), request(Fsetstat, first, 0),
		request(Close, first), request(Fstat, first), request(Readdir, first),
		request(Extended, "fsync@openssh.com", first), request(Extended, "fstatvfs@openssh.com", first), request(Extended, "copy-data", first, int64(0), int64(0), first, int64(0)),
	}
	for _, r := range whole {
		for cut := 9; cut < len(r); cut++ {
			short := bytes.Clone(r[:cut])
			binary.BigEndian.PutUint32(short, uint32(cut-LengthSize))
			a := mustTalk(t, short)[0]
			if code, text := a.status(); a.kind != status || code == statusOK {
				t.Errorf("%q: kind %d, status %d, %q", short, a.kind, code, text)
			}
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

func TestAStreamOfSomethingElseIsAnError(t *testing.T) {
	for name, in := range map[string]string{
		"a length of 0":          string(begin) + "\x00\x00\x00\x00",
		"a length over the most": string(begin) + "\x00\x04\x00\x01",
		"cut short":              string(begin) + "\x00\x00\x00\x05\x07",
		"no number":              string(begin) + "\x00\x00\x00\x01\x07",
		"two beginnings":         string(begin) + string(begin),
		"none":                   string(request(Stat, "/")),
	} {
		if err := Serve(strings.NewReader(in), io.Discard, "/", time.Now); err == nil {
			t.Errorf("%s is served", name)
		}
	}
}

func TestAnswersComeInTheOrderOfRequests(t *testing.T) {
	path := tempFile(t, strings.Repeat("x", 300<<10))
	requests := [][]byte{request(Open, path, OpenRead, 0)}
	for i := range 20 {
		requests = append(requests, request(Read, first, int64(i)*(32<<10), 32<<10))
	}
	answers := mustTalk(t, requests...)
	total := 0
	for i, a := range answers[1:] {
		if want := data; i >= 10 {
			if code, _ := a.status(); a.kind != status || code != statusEOF {
				t.Errorf("%d: kind %d", i, a.kind)
			}
		} else if a.kind != want {
			t.Errorf("%d: kind %d", i, a.kind)
		} else {
			total += len(a.Bytes())
		}
	}
	if total != 300<<10 {
		t.Errorf("%d bytes", total)
	}
}

func TestAReadTakesNoMoreThanAPacket(t *testing.T) {
	path := tempFile(t, strings.Repeat("x", 300<<10))
	a := mustTalk(t, request(Open, path, OpenRead, 0), request(Read, first, int64(0), 1<<31))
	if got := len(a[1].Bytes()); got != maxData {
		t.Errorf("%d bytes", got)
	}
	if code, _ := mustTalk(t, request(Open, path, OpenRead, 0), request(Read, first, int64(-1), 1))[1].status(); code != statusBadMessage {
		t.Errorf("a negative offset: %d", code)
	}
}

func TestOpenSSHsExtensionsWork(t *testing.T) {
	path := tempFile(t, "0123456789")
	link, to := path+"-link", path+"-copy"
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	a := mustTalk(t,
		request(Open, path, OpenRead, 0), request(Open, to, OpenWrite|OpenCreate, 0),
		request(Extended, "copy-data", first, int64(2), int64(5), second, int64(1)),
		request(Extended, "copy-data", first, int64(8), int64(0), second, int64(6)),
		request(Extended, "copy-data", first, int64(8), int64(5), second, int64(6)),
		request(Extended, "copy-data", first, int64(0), int64(0), first, int64(0)),
		request(Extended, "fsync@openssh.com", second),
		request(Extended, "fstatvfs@openssh.com", first),
		request(Extended, "lsetstat@openssh.com", link, AttrTimes, 1, 1_000_000_000),
		request(Extended, "limits@openssh.com"),
		request(Extended, "expand-path@openssh.com", "~/x"),
		request(Extended, "expand-path@openssh.com", "~root"),
		request(Extended, "expand-path@openssh.com", "~nobody-has-this-name/x"),
		request(Extended, "users-groups-by-id@openssh.com", "\x00\x00\x00\x00\xff\xff\xff\xf0", "\x00\x00\x00\x00"),
		request(Extended, "unheard-of@openssh.com"),
		AppendRefusal(nil, 7, StatusFailure, "because"),
		AppendRefusal(nil, 7, 0, ""),
	)
	for at, want := range map[int]uint32{2: 0, 3: 0, 4: statusEOF, 5: statusBadMessage, 6: 0, 8: 0, 12: statusNoFile, 14: StatusUnsupported} {
		if code, text := a[at].status(); a[at].kind != status || code != want {
			t.Errorf("%d: kind %d, status %d %q, want %d", at, a[at].kind, code, text, want)
		}
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "\x002345689" {
		t.Errorf("copied: %q, %v", b, err)
	}
	if len(a[7].Rest) != 11*8 {
		t.Errorf("statvfs has %d bytes", len(a[7].Rest))
	}
	if info, err := os.Lstat(link); err != nil || info.ModTime().Unix() != 1_000_000_000 {
		t.Errorf("%v, %v", info, err)
	}
	if packet, read, write, handles := a[9].Uint64(), a[9].Uint64(), a[9].Uint64(), a[9].Uint64(); packet != MaxPacket || read != maxData || write != maxData || handles != MaxHandles {
		t.Errorf("limits %d, %d, %d, %d", packet, read, write, handles)
	}
	for at, want := range map[int]string{10: "/home/me/x", 11: "/root/"} {
		if n, path := a[at].Uint32(), a[at].String(); n != 1 || path != want {
			t.Errorf("expanded: %d, %q", n, path)
		}
	}
	if users, groups := a[13].String(), a[13].String(); users != "\x00\x00\x00\x04root\x00\x00\x00\x00" || groups != "\x00\x00\x00\x04root" {
		t.Errorf("%q, %q", users, groups)
	}
	if code, text := a[15].status(); code != StatusFailure || text != "because" {
		t.Errorf("refused: %d, %q", code, text)
	}
	if code, _ := a[16].status(); code == statusOK {
		t.Error("a refusal that is none")
	}
}

func TestAListingHasAllAndTheirLines(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("four"), 0o640); err != nil {
		t.Fatal(err)
	}
	a := mustTalk(t, request(Opendir, dir), request(Readdir, first), request(Readdir, first), request(Close, first), request(Readdir, first))
	lines := map[string]string{}
	for _, list := range a[1:3] {
		if list.kind != name {
			continue
		}
		for range list.Uint32() {
			n := list.String()
			lines[n] = list.String()
			if attr := list.Attributes(); n == "f" && attr.Size != 4 {
				t.Errorf("%+v", attr)
			}
		}
	}
	if len(lines) != 3 || lines["."] == "" || lines[".."] == "" || !strings.HasPrefix(lines["f"], "-rw-r-----   1 ") || !strings.HasSuffix(lines["f"], " f") {
		t.Errorf("%q", lines)
	}
	if code, _ := a[4].status(); code != statusNoFile {
		t.Errorf("after its end: %d", code)
	}
	for mode, want := range map[uint32]string{0o104755: "-rwsr-xr-x", 0o41777: "drwxrwxrwt", 0o120777: "lrwxrwxrwx", 0o102644: "-rw-r-Sr--", 0o10600: "prw-------", 0: "?---------"} {
		if got := modeText(mode); got != want {
			t.Errorf("%o is %q, want %q", mode, got, want)
		}
	}
}

// As of ls -l: sftp before OpenSSH 9.1, psftp and others show the line as it is.
func TestALineOfAListingHasTheTimeOfDayOfWhatIsRecent(t *testing.T) {
	for when, want := range map[time.Time]string{
		noon:                              " Jun  1 12:00 f",
		noon.Add(-time.Hour):              " Jun  1 11:00 f",
		noon.Add(-halfYear + time.Minute): noon.Add(-halfYear + time.Minute).Format(" Jan _2 15:04 f"),
		noon.Add(-halfYear):               noon.Add(-halfYear).Format(" Jan _2  2006 f"),
		noon.Add(time.Hour):               " Jun  1  2026 f",
		noon.AddDate(-10, 0, 0):           " Jun  1  2016 f",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/f", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir+"/f", when, when); err != nil {
			t.Fatal(err)
		}
		list := mustTalk(t, request(Opendir, dir), request(Readdir, first), request(Readdir, first))[2]
		if list.Uint32() != 1 || list.String() != "f" {
			t.Fatalf("%+v", list)
		}
		if line := list.String(); !strings.HasSuffix(line, want) {
			t.Errorf("%q does not end in %q", line, want)
		}
	}
}

// It would read what it has just written, for ever.
func TestAFileIsNotCopiedIntoItself(t *testing.T) {
	path := tempFile(t, "text")
	a := mustTalk(t, request(Open, path, OpenRead, 0), request(Open, path, OpenWrite, 0),
		request(Extended, "copy-data", first, int64(0), int64(100), second, int64(4)))
	if code, _ := a[2].status(); code != statusBadMessage {
		t.Errorf("status %d", code)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestHandlesHaveAnEnd(t *testing.T) {
	path := tempFile(t, "")
	var requests [][]byte
	for range MaxHandles + 10 {
		requests = append(requests, request(Open, path, OpenRead, 0))
	}
	refused := 0
	for _, a := range mustTalk(t, requests...) {
		if a.kind != Handle {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("%d of %d were refused", refused, len(requests))
	}
}

// What only looks may be asked with any path.
func FuzzServe(f *testing.F) {
	path := tempFile(f, "text")
	f.Add(byte(Read), []byte(first+"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08"))
	f.Add(byte(Readdir), []byte("\x00\x00\x00\x04"+second))
	f.Add(byte(Realpath), []byte("\x00\x00\x00\x04/tmp"))
	f.Add(byte(Extended), appendText(nil, "users-groups-by-id@openssh.com"))
	f.Fuzz(func(t *testing.T, kind byte, fields []byte) {
		switch Kind(kind) {
		case Init, Open, Setstat, Fsetstat, Remove, Mkdir, Rmdir, Rename, Symlink:
			return
		case Extended:
			r := Fields{Rest: fields}
			switch r.String() {
			case "posix-rename@openssh.com", "hardlink@openssh.com", "lsetstat@openssh.com":
				return
			}
		default:
		}
		if len(fields) > MaxPacket-5 {
			return
		}
		answers := mustTalk(t, request(Open, path, OpenRead|OpenWrite, 0), request(Opendir, filepath.Dir(path)), request(Kind(kind), fields), request(Stat, "/"))
		if answers[3].kind != attrs {
			t.Errorf("kind %d %q: then %d", kind, fields, answers[3].kind)
		}
	})
}
