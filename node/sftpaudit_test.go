package node

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"devicetrust/audit/event"
)

// operations are the records of SFTP, as words.
func (n *testNode) operations() []string {
	var all []string
	for _, e := range n.records() {
		if e.Type == event.SFTP {
			all = append(all, strings.Join(slices.DeleteFunc([]string{e.Action, e.Path, e.TargetPath, e.Message}, func(s string) bool { return s == "" }), " "))
		}
	}
	return all
}

func TestWhatIsDoneWithFilesIsRecorded(t *testing.T) {
	n := startNode(t)
	ssh := n.mustDial(tester, n.cluster.certify(t, onDevice(alice()), newSigner(t)))
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/a\xff", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, "a")
	at := time.Unix(1_000_000_000, 0)
	f, err := c.Open(dir + "/a\xff")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		f.Chmod(0o600), f.Close(), c.Mkdir(dir + "/d"), c.Rename(dir+"/a\xff", dir+"/b"), c.PosixRename(dir+"/b", dir+"/c"),
		c.Symlink("c", dir+"/l"), c.Link(dir+"/c", dir+"/h"), c.Chtimes(dir+"/c", at, at), c.Chmod(dir+"/c", 0o4755), c.Truncate(dir+"/c", 7),
		c.Remove(dir + "/h"), c.RemoveDirectory(dir + "/d"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := c.ReadDir(dir); err != nil {
		t.Error(err)
	}
	want := []string{
		`open "$/a\xff" write, create, truncate`, `open "$/a\xff" read`, `fsetstat "$/a\xff" mode 0600`, "mkdir $/d",
		`rename "$/a\xff" $/b`, "posix-rename $/b $/c", "symlink $/l c", "hardlink $/h $/c",
		"setstat $/c modified 2001-09-09T01:46:40Z", "setstat $/c mode 4755", "setstat $/c size 7", "remove $/h", "rmdir $/d",
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "$", dir)
	}
	got := n.operations()
	// pkg/sftp removes a folder as a file first, and asks for modes by its own way.
	got = slices.DeleteFunc(got, func(op string) bool { return op == "remove "+dir+"/d" })
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	e := n.recorded(event.SFTP)
	start := n.recorded(event.SessionStart)
	if e.Code != "TS001I" || e.SessionID != start.SessionID || start.Action != "sftp" || e.Login != tester || e.TrustedDevice == nil {
		t.Errorf("%+v", e)
	}
	c.Close()
	if end := n.recorded(event.SessionEnd); end.Bytes == nil || end.BytesIn == nil || *end.Bytes < 100 || *end.BytesIn < 100 || *end.ExitStatus != 0 {
		t.Errorf("%+v", end)
	}
}

func TestWhatCannotBeRecordedIsNotDone(t *testing.T) {
	n, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/f", os.O_CREATE|os.O_WRONLY, "as it was")
	f, err := c.Open(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	n.spool.fill(10)
	_, openErr := c.Open(dir + "/f")
	for what, err := range map[string]error{
		"open": openErr, "mkdir": c.Mkdir(dir + "/d"), "remove": c.Remove(dir + "/f"), "rename": c.Rename(dir+"/f", dir+"/g"),
		"link": c.Link(dir+"/f", dir+"/g"), "symlink": c.Symlink("f", dir+"/g"), "truncate": c.Truncate(dir+"/f", 0), "chmod": f.Chmod(0),
	} {
		if err == nil || !strings.Contains(err.Error(), "cannot be recorded") {
			t.Errorf("%s: %v", what, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || content(t, dir+"/f") != "as it was" {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := c.Stat(dir); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
}

func TestAStreamThatIsNoSFTPEndsTheSession(t *testing.T) {
	n, c := enterNode(t)
	const begin = "\x00\x00\x00\x05\x01\x00\x00\x00\x03"
	for name, stream := range map[string]string{
		"no length":              begin + "\x00\x00\x00\x00",
		"a length of 4":          begin + "\x00\x00\x00\x04\x0e\x00\x00\x00",
		"a length of 4 GiB":      begin + "\xff\xff\xff\xff\x0e\x00\x00\x00\x01",
		"a length over the most": begin + "\x00\x04\x00\x01\x06\x00\x00\x00\x01",
		"a request before all":   "\x00\x00\x00\x0a\x0e\x00\x00\x00\x01\x00\x00\x00\x01d",
		"a second beginning":     begin + begin,
		"a line of text":         "GET / HTTP/1.1\r\n\r\n",
	} {
		if said := lastWordsOf(t, c, stream); !strings.Contains(said, "file transfer ends") {
			t.Errorf("%s: %q", name, said)
		}
	}
	if out, _, _ := run(t, c, "echo still here"); out != "still here\n" || len(n.operations()) > 0 {
		t.Errorf("%q, %q", out, n.operations())
	}
}
