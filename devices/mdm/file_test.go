package mdm

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/devices"
	"devicetrust/resource"
)

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readText(t testing.TB, text string) ([]devices.SyncRecord, error) {
	t.Helper()
	cfg := Config{Name: "assets", Type: "file", Path: writeFile(t, "assets", text)}
	return read(t.Context(), open(t, cfg, Clock{}), time.Time{})
}

func TestAFileIsReadInEachOfItsForms(t *testing.T) {
	want := []devices.SyncRecord{
		{OSType: "linux", AssetTag: "PF1", Profile: resource.DeviceProfile{
			UpdateTime: time.Date(2026, 1, 31, 18, 0, 0, 0, time.UTC), ModelIdentifier: "21J, K0005", OSUsernames: []string{"alice", "bob"},
		}},
		{OSType: "windows", AssetTag: "PF2", Profile: resource.DeviceProfile{SerialNumber: "PF2"}},
	}
	first := `{"os_type":"linux","asset_tag":"PF1","update_time":"2026-01-31T18:00:00Z","model_identifier":"21J, K0005","os_usernames":["alice","bob"]}`
	second := `{"asset_tag":"PF2","os_type":"windows","serial_number":"PF2"}`
	const header = "os_type,asset_tag,update_time,model_identifier,os_usernames,serial_number"
	const rows = "linux,PF1,2026-01-31T18:00:00Z,\"21J, K0005\",alice bob,\n\nwindows , PF2,,,,PF2"
	for _, tt := range []struct{ name, text, place string }{
		{"CSV", header + "\n" + rows + "\n", "line 4"},
		{"CSV as Excel writes it", "\xef\xbb\xbf" + header + "\r\n" + strings.ReplaceAll(rows, "\n", "\r\n"), "line 4"},
		{"an array", " [" + first + ",\n" + second + "]\n", "record 2"},
		{"lines", first + "\n" + second + "\n", "record 2"},
		{"lines without the last end", first + "\n" + second, "record 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readText(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || got[1].Place != tt.place {
				t.Fatalf("got %+v", got)
			}
			got[0].Place, got[1].Place = "", ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFileThatIsNotWholeOrNotRightFailsAndSaysWhere(t *testing.T) {
	const ok = `{"os_type":"linux","asset_tag":"PF1"}`
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "it is empty: want a header"},
		{"an unknown column", "os_type,asset_tag,colour\n", `line 1: unknown column "colour"`},
		{"a column twice", "os_type,asset_tag,os_type\n", `line 1: column "os_type" is there twice`},
		{"a column missing", "os_type,serial_number\n", "line 1: column asset_tag is missing"},
		{"too few cells", "os_type,asset_tag\nlinux,PF1\nlinux\n", "record on line 3: wrong number of fields"},
		{"an open quotation mark", "os_type,asset_tag\nlinux,\"PF1\n", `line 2`},
		{"a time that is none", "os_type,asset_tag,update_time\nlinux,PF1,yesterday\n", `line 2: update_time "yesterday": want a time`},
		{"a quotation mark that eats the file", "os_type,asset_tag\nlinux,PF1\nlinux,\"" + strings.Repeat("x\n", maxRecord), "a record has more than 65536 bytes"},
		{"an unknown key", "[" + ok + `,{"os_type":"linux","colour":"red"}]`, `record 2: unknown field "colour"`},
		{"an array that breaks off", "[" + ok, "after record 1: it breaks off"},
		{"an array that breaks off behind a comma", "[" + ok + ",", "it breaks off"},
		{"an object that breaks off", ok + "\n" + ok[:20], "record 2: it breaks off"},
		{"something behind the array", "[" + ok + "] x", "there is more behind the array"},
		{"another type", `{"os_type":1}`, "record 1: os_type: want a text, and not a number"},
		{"another type in the profile", `{"os_type":"linux","serial_number":1}`, "record 1: serial_number: want a text, and not a number"},
		{"a text in place of a list", `{"os_usernames":"alice"}`, "record 1: os_usernames: want a list of texts, and not a string"},
		{"a number in a list", `{"os_usernames":[1]}`, "record 1: os_usernames: want a text, and not a number"},
		{"no object", `[1]`, "record 1: want an object with os_type and asset_tag, and not a number"},
		{"a time in JSON that is none", `{"update_time":"yesterday"}`, "record 1: update_time: want a time such as"},
		{"a number for a time", `{"update_time":1}`, "record 1: update_time: want a time such as"},
		{"a value that eats the file", `[{"os_type":"` + strings.Repeat("x", 2*maxRecord) + `"}]`, "a record has more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readText(t, tt.text)
			wantFailure(t, err, tt.want)
		})
	}
}

func TestAFileThatIsNotThereIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent.csv")
	_, err := read(t.Context(), open(t, Config{Name: "assets", Type: "file", Path: path}, Clock{}), time.Time{})
	if wantFailure(t, err, path+": no such file"); strings.Contains(err.Error(), "open ") {
		t.Error(err)
	}
}

func TestALongFileComesInBatches(t *testing.T) {
	text := &strings.Builder{}
	text.WriteString("asset_tag,os_type\n")
	for n := range 3*pageRecords + 1 {
		fmt.Fprintf(text, "PF%06d,linux\n", n)
	}
	cfg := Config{Name: "assets", Type: "file", Path: writeFile(t, "a.csv", text.String())}
	var sizes []int
	for page, err := range open(t, cfg, Clock{}).Pages(t.Context(), time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page))
	}
	if diff := cmp.Diff([]int{pageRecords, pageRecords, pageRecords, 1}, sizes); diff != "" {
		t.Error(diff)
	}
	for range open(t, cfg, Clock{}).Pages(t.Context(), time.Time{}) {
		break // and nothing is given after that
	}
}

func TestAFileThatChangesWhileItIsReadFails(t *testing.T) {
	text := "asset_tag,os_type\n" + strings.Repeat("PF1,linux\n", pageRecords+1)
	cfg := Config{Name: "assets", Type: "file", Path: writeFile(t, "a.csv", text)}
	var last error
	for _, err := range open(t, cfg, Clock{}).Pages(t.Context(), time.Time{}) {
		if last = err; err == nil {
			if err := os.WriteFile(cfg.Path, []byte(text+"PF2,linux\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantFailure(t, last, "was changed while it was read")
}

func TestAFileIsFetchedWithItsToken(t *testing.T) {
	v := startVendor(t, "/none", says("text/csv", "os_type,asset_tag\nlinux,PF1\n"))
	v.token = 7
	cfg := Config{Name: "assets", Type: "file", URL: v.URL + "/a.csv", BearerTokenFile: secretFile(t, "token-7-of-the-vendor")}
	if all, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{}); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	v.fail(truncated("os_type,asset_tag\nlinux,PF1\nli"))
	_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	wantFailure(t, err, "/a.csv: after line 2: unexpected EOF")
	v.expire()
	_, err = read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	wantFailure(t, err, "refuses our token")
}

// A file on the web is read as it comes: what stands behind a wrong line, or
// is never sent, does not matter.
func TestAFileOnTheWebIsNotHeldInMemory(t *testing.T) {
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "os_type,asset_tag\n", strings.Repeat("linux,PF1\n", pageRecords+1000))
		w.(http.Flusher).Flush()
		<-done
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(done) })
	cfg := Config{Name: "assets", Type: "file", URL: server.URL}
	for page, err := range open(t, cfg, newWatch().clock()).Pages(t.Context(), time.Time{}) {
		if err != nil || len(page) != pageRecords {
			t.Errorf("got %d, %v", len(page), err)
		}
		break
	}
}

func FuzzFile(f *testing.F) {
	f.Add("os_type,asset_tag,os_usernames\nlinux,PF1,a b\n")
	f.Add(`[{"os_type":"linux","asset_tag":"PF1"}]`)
	f.Add(`{"os_type":"linux"}{"os_type":"linux"}`)
	f.Fuzz(func(t *testing.T, text string) {
		src := &file{}
		total := 0
		err := src.parse(t.Context(), "x", strings.NewReader(text), func(page []devices.SyncRecord, _ error) bool {
			total += len(page)
			return true
		})
		if err == nil && total > len(text) {
			t.Errorf("%d records of %d bytes", total, len(text))
		}
	})
}
