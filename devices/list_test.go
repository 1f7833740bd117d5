package devices

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// set changes a registered device as ceremonies and others would.
func (w *world) set(t testing.TB, d resource.Device, change func(s *resource.DeviceSpec)) {
	t.Helper()
	change(&d.Spec)
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error { return update(tx, &d) }); err != nil {
		t.Fatal(err)
	}
}

// labels of all that fits, fetched in pages of the size.
func (w *world) labels(t testing.TB, f Filter, size int) (all []string) {
	t.Helper()
	p := Page{Size: size}
	for {
		page, next, err := w.ListPage(t.Context(), f, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > size {
			t.Fatalf("a page of %d devices, want at most %d", len(page), size)
		}
		for _, d := range page {
			all = append(all, label(d))
		}
		if next == "" {
			return all
		}
		p.Token = next
	}
}

func TestDevicesAreListedInTheOrderOfTheirBytes(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		if all := w.all(t); len(all) != 0 {
			t.Errorf("an empty inventory: %v", all)
		}
		for _, tag := range []string{"b1", "A2", "a1", "B1", "a-1", "a:1", "a_1", "A.2"} {
			add(t, w, "linux", tag)
		}
		add(t, w, "windows", "a1")
		want := []string{"A.2/linux", "A2/linux", "B1/linux", "a-1/linux", "a1/linux", "a1/windows", "a:1/linux", "a_1/linux", "b1/linux"}
		for _, size := range []int{1, 2, 3, len(want), len(want) + 1} {
			if diff := cmp.Diff(want, w.labels(t, Filter{}, size)); diff != "" {
				t.Errorf("in pages of %d: %s", size, diff)
			}
		}
	})
}

func TestTheListIsFiltered(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		mine := add(t, w, "linux", "AB_1")
		w.set(t, mine, func(s *resource.DeviceSpec) {
			s.EnrollStatus, s.Owner, s.LastSeenTime = resource.Enrolled, alice, w.now()
			s.Credential = &resource.Credential{ID: "c1", DeviceAttestationType: "tpm_ekcert"}
		})
		w.set(t, add(t, w, "macos", "AB_2"), func(s *resource.DeviceSpec) {
			s.EnrollStatus, s.Owner, s.LastSeenTime = resource.Enrolled, bob, w.now().Add(-48*time.Hour)
			s.Credential = &resource.Credential{ID: "c2", DeviceAttestationType: "tpm_ekcert_trusted"}
			s.Frozen = &resource.DeviceFreeze{Time: w.now(), Reason: "its TPM went back"}
			s.Source = &resource.DeviceSource{Name: "jamf", Origin: "mdm"}
		})
		add(t, w, "windows", "ABx3")
		shared := add(t, w, "linux", "AC4")
		w.withUsers()
		shared.Spec.Owners = []string{alice, carol}
		if _, err := w.Update(t.Context(), admin, shared, "", nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			f    Filter
			want string
		}{
			{"nothing", Filter{}, "AB_1/linux AB_2/macos ABx3/windows AC4/linux"},
			{"the system", Filter{OSType: "windows"}, "ABx3/windows"},
			{"enrolled", Filter{EnrollStatus: "enrolled"}, "AB_1/linux AB_2/macos"},
			{"not enrolled", Filter{EnrollStatus: "not_enrolled"}, "ABx3/windows AC4/linux"},
			{"the owner", Filter{Owner: alice}, "AB_1/linux AC4/linux"},
			{"one who is listed", Filter{Owner: carol}, "AC4/linux"},
			{"the source", Filter{Source: "jamf"}, "AB_2/macos"},
			{"by hand", Filter{Source: "manual"}, "AB_1/linux ABx3/windows AC4/linux"},
			{"the attestation, and no more than it", Filter{Attestation: "tpm_ekcert"}, "AB_1/linux"},
			{"a prefix", Filter{AssetTagPrefix: "AB"}, "AB_1/linux AB_2/macos ABx3/windows"},
			{"a prefix with a wildcard that is none", Filter{AssetTagPrefix: "AB_"}, "AB_1/linux AB_2/macos"},
			{"a prefix that is a wildcard", Filter{AssetTagPrefix: "%"}, ""},
			{"a whole tag", Filter{AssetTagPrefix: "ABx3"}, "ABx3/windows"},
			{"not seen since yesterday", Filter{NotSeenSince: w.now().Add(-24 * time.Hour)}, "AB_2/macos ABx3/windows AC4/linux"},
			{"frozen", Filter{Frozen: true}, "AB_2/macos"},
			{"one's of a source", Filter{Owner: bob, Source: "jamf", Attestation: "tpm_ekcert_trusted"}, "AB_2/macos"},
			{"another's of a source", Filter{Owner: alice, Source: "jamf"}, ""},
			{"all that is frozen of one's", Filter{Owner: bob, Frozen: true, Source: "jamf"}, "AB_2/macos"},
			{"two at once", Filter{EnrollStatus: "enrolled", OSType: "linux"}, "AB_1/linux"},
			{"what none has", Filter{Owner: "dave"}, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				for _, size := range []int{1, 100} {
					if got := strings.Join(w.labels(t, c.f, size), " "); got != c.want {
						t.Errorf("in pages of %d: got %q, want %q", size, got, c.want)
					}
				}
			})
		}
	})
}

func TestAFilterOrAPageThatIsNoneIsRefused(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	encode := base64.RawURLEncoding.EncodeToString
	leftOver := encode([]byte("A1 linux")) // of 66 bits, two are 0
	leftOver = leftOver[:10] + string(leftOver[10]+1)
	for name, c := range map[string]struct {
		f    Filter
		p    Page
		want string
	}{
		"a system":                    {Filter{OSType: "beos"}, Page{}, `unknown operating system "beos"`},
		"a status":                    {Filter{EnrollStatus: "half"}, Page{}, `unknown enroll status "half"`},
		"an owner of many bytes":      {Filter{Owner: strings.Repeat("a", maxField+1)}, Page{}, "not a line"},
		"a source with a NUL":         {Filter{Source: "a\x00"}, Page{}, "not a line"},
		"a prefix that is not UTF-8":  {Filter{AssetTagPrefix: "\xff"}, Page{}, "not a line"},
		"an attestation of two lines": {Filter{Attestation: "a\nb"}, Page{}, "not a line"},
		"a page of less than nothing": {Filter{}, Page{Size: -1}, "-1 devices"},
		"a token that is not base64":  {Filter{}, Page{Token: "!"}, "page token"},
		"a token of nothing":          {Filter{}, Page{Token: encode([]byte(" "))}, "page token"},
		"a token with another system": {Filter{}, Page{Token: encode([]byte("A1 beos"))}, "page token"},
		"a token without a system":    {Filter{}, Page{Token: encode([]byte("A1"))}, "page token"},
		"a token with a NUL":          {Filter{}, Page{Token: encode([]byte("A\x00 linux"))}, "page token"},
		"a token that is not UTF-8":   {Filter{}, Page{Token: encode([]byte("A\xff linux"))}, "page token"},
		"a token of very many bytes":  {Filter{}, Page{Token: encode([]byte(strings.Repeat("A", 200) + " linux"))}, "page token"},
		"a token with bits left over": {Filter{}, Page{Token: leftOver}, "page token"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.ListPage(t.Context(), c.f, c.p)
			wantCode(t, err, connect.CodeInvalidArgument, c.want)
		})
	}
}

func FuzzPageToken(f *testing.F) {
	f.Add(key{"PF2ABCDE", "linux"}.token())
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		k, err := parseKey(token)
		if err == nil && k.token() != token {
			t.Errorf("%q is %+v, which is %q", token, k, k.token())
		}
	})
}

func TestAPageIsBoundedInBytes(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	long := strings.Repeat("x", maxField)
	reports := make([]resource.CollectedData, maxCollected*40)
	for i := range reports {
		reports[i] = resource.CollectedData{Hostname: long, OSVersion: long, OSBuild: long, KernelVersion: long}
	}
	for i := range 15 {
		w.set(t, add(t, w, "linux", fmt.Sprintf("TAG%02d", i)), func(s *resource.DeviceSpec) { s.CollectedData = reports })
	}
	page, next, err := w.ListPage(t.Context(), Filter{}, Page{Size: MaxPage})
	if err != nil || next == "" {
		t.Fatalf("all at once: %v", err)
	}
	if len(page) < 8 || len(page) > 10 { // of 440 KiB
		t.Errorf("a page of %d devices", len(page))
	}
	if all := w.labels(t, Filter{}, MaxPage); len(all) != 15 {
		t.Errorf("%d devices in all the pages", len(all))
	}
}

// The databases of the tests are in "C" anyhow; those of others are not.
func TestTheOrderIsNotThatOfTheDatabase(t *testing.T) {
	db := storetest.OpenPostgres(t)
	for _, column := range []string{"asset_tag", "os_type"} {
		var collation string
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT COALESCE(collation_name, '') FROM information_schema.columns
				WHERE table_name = 'devices' AND column_name = $1`, column).Scan(&collation)
		})
		if err != nil || collation != "C" {
			t.Errorf("%s has collation %q: %v", column, collation, err)
		}
	}
}

// Whoever filters a million devices reads those that fit.
func TestFiltersHaveAnIndex(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		db := storetest.OpenAt(t, address)
		explain, sorts := `EXPLAIN QUERY PLAN `, "TEMP B-TREE"
		prepare := func(*store.Tx) error { return nil }
		if !strings.HasPrefix(address, "sqlite:") {
			explain, sorts = `EXPLAIN `, "Sort"
			prepare = func(tx *store.Tx) error {
				for _, off := range []string{`enable_seqscan`, `enable_bitmapscan`, `enable_sort`} {
					if _, err := tx.Exec(`SET LOCAL ` + off + ` = off`); err != nil {
						return err
					}
				}
				return nil
			}
		}
		for name, c := range map[string]struct {
			f    Filter
			want []string // any of them
		}{
			"nothing":         {Filter{}, []string{"autoindex_devices_2", "devices_asset_tag_os_type_key"}},
			"a prefix":        {Filter{AssetTagPrefix: "AB"}, []string{"autoindex_devices_2", "devices_asset_tag_os_type_key"}},
			"the source":      {Filter{Source: "jamf"}, []string{"devices_source"}},
			"the attestation": {Filter{Attestation: "tpm_ekcert"}, []string{"devices_attestation"}},
			"enrolled":        {Filter{EnrollStatus: "enrolled"}, []string{"devices_enrolled"}},
			"frozen":          {Filter{Frozen: true}, []string{"devices_frozen"}},
			"frozen of many": {
				Filter{Frozen: true, Source: "manual", Owner: alice, Attestation: "tpm_ekcert", EnrollStatus: "enrolled", AssetTagPrefix: "A"},
				[]string{"devices_frozen"},
			},
		} {
			t.Run(name, func(t *testing.T) {
				q, err := c.f.query()
				if err != nil {
					t.Fatal(err)
				}
				last := key{"A1", "linux"}
				q.and(`(asset_tag, os_type) > (%s, %s)`, last.tag, last.os)
				var plan strings.Builder
				err = db.Write(t.Context(), func(tx *store.Tx) error {
					if err := prepare(tx); err != nil {
						return err
					}
					rows, err := tx.Query(explain+`SELECT document, revision FROM devices WHERE `+q.where()+inOrder+` LIMIT 101`, q.args...)
					if err != nil {
						return err
					}
					defer rows.Close()
					columns, err := rows.Columns()
					if err != nil {
						return err
					}
					for rows.Next() {
						cells, into := make([]any, len(columns)), make([]any, len(columns))
						for i := range cells {
							into[i] = &cells[i]
						}
						if err := rows.Scan(into...); err != nil {
							return err
						}
						fmt.Fprintln(&plan, cells[len(cells)-1])
					}
					return rows.Err()
				})
				if err != nil {
					t.Fatal(err)
				}
				used := false
				for _, index := range c.want {
					used = used || strings.Contains(plan.String(), index)
				}
				if !used || strings.Contains(plan.String(), sorts) {
					t.Errorf("it goes by\n%s", plan.String())
				}
			})
		}
	})
}
