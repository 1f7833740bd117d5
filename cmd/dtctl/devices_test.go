package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

const macID = "9cdfc0ad-64b7-4d9c-8a9c-000000000001"

const devices = `kind: device
version: v1
metadata:
  name: 9cdfc0ad-64b7-4d9c-8a9c-000000000002
spec:
  os_type: linux
  asset_tag: PF0A
  enroll_status: enrolled
  owner: alice
  source: {name: manual, origin: api}
  credential:
    id: "00"
    public_key_der: ""
    device_attestation_type: tpm_ekcert
  last_seen_time: "2026-03-01T08:00:00Z"
---
kind: device
version: v1
metadata:
  name: 9cdfc0ad-64b7-4d9c-8a9c-000000000001
spec:
  os_type: macos
  asset_tag: C00AA0AAAA0A
  enroll_status: not_enrolled
`

func TestDevicesLookAsInTheSeeds(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "No devices found\n", "devices", "ls")
	c.prints(t, "No devices found\n", "devices", "ls", "-v")
	c.prints(t, "[]\n", "devices", "ls", "--format=json")
	c.put(t, devices)
	c.prints(t, `Asset Tag    OS    Enroll Status Device ID
------------ ----- ------------- ------------------------------------
C00AA0AAAA0A macOS not enrolled  9cdfc0ad-64b7-4d9c-8a9c-000000000001
PF0A         Linux enrolled      9cdfc0ad-64b7-4d9c-8a9c-000000000002
`, "devices", "ls")
	c.prints(t, `Asset Tag    OS    Enroll Status Device ID                            Source Owner Attestation Last Seen
------------ ----- ------------- ------------------------------------ ------ ----- ----------- -------------------
C00AA0AAAA0A macOS not enrolled  9cdfc0ad-64b7-4d9c-8a9c-000000000001
PF0A         Linux enrolled      9cdfc0ad-64b7-4d9c-8a9c-000000000002 manual alice tpm_ekcert  2026-03-01 09:00:00
`, "devices", "ls", "-v")
}

// fleet is the text of n devices, PF000 and so on.
func fleet(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\nkind: device\nversion: v1\nspec: {os_type: linux, asset_tag: PF%03d}\n", i)
	}
	return b.String()
}

func TestAllPagesOfDevicesArePrintedAsOneList(t *testing.T) {
	c := startCluster(t)
	c.put(t, devices)
	c.put(t, strings.NewReplacer("PF0A", "ZZ", "C00AA0AAAA0A", "AA", "9cdfc0ad", "aaaaaaaa").Replace(devices))
	for _, args := range [][]string{{"devices", "ls"}, {"get", "devices"}} {
		var all []struct {
			Spec struct {
				AssetTag string `json:"asset_tag"`
			}
		}
		text := c.good(t, append(args, "--format=json")...)
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		var tags []string
		for _, d := range all {
			tags = append(tags, d.Spec.AssetTag)
		}
		if got := strings.Join(tags, " "); got != "AA C00AA0AAAA0A PF0A ZZ" {
			t.Errorf("%s: %s", args, got)
		}
		// As one resource is printed, in a list.
		if one := c.good(t, "get", "device/C00AA0AAAA0A", "--format=json"); !strings.Contains(text, one[2:len(one)-3]) {
			t.Errorf("%s\nis not in\n%s", one, text)
		}
		yaml := c.good(t, append(args, "--format=yaml")...)
		if read, err := resource.ParseYAML([]byte(yaml)); err != nil || len(read) != 4 {
			t.Errorf("%d documents in YAML: %v", len(read), err)
		}
		if rows := strings.Count(c.good(t, append(args, "--format=text")...), "\n"); rows != 6 {
			t.Errorf("%s: a table of %d lines", args, rows)
		}
	}
	r := c.run(t, "devices", "ls", "--limit=3", "--format=json")
	if r.status != 0 || strings.Count(r.out, "asset_tag") != 3 || r.errors != "There are more devices: --limit=0 lists all.\n" {
		t.Errorf("%+v", r)
	}
	if r := c.run(t, "devices", "ls", "--limit=4"); r.errors != "" || strings.Count(r.out, "\n") != 6 {
		t.Errorf("%+v", r)
	}
}

func TestTheListIsFilteredByFlags(t *testing.T) {
	c := startCluster(t)
	for args, want := range map[string]*dtv1.ListDevicesRequest{
		"--os=macos":                   {OsType: "macos"},
		"--enroll-status=not-enrolled": {EnrollStatus: "not_enrolled"},
		"--enroll-status=not_enrolled": {EnrollStatus: "not_enrolled"},
		"--enroll-status=enrolled":     {EnrollStatus: "enrolled"},
		"--owner=alice --source=jamf":  {Owner: "alice", Source: "jamf"},
		"--asset-tag-prefix=C0":        {AssetTagPrefix: "C0"},
		"--attestation=tpm_ekcert":     {Attestation: "tpm_ekcert"},
		"--frozen":                     {FrozenOnly: true},
		"--not-seen-for=30d":           {NotSeenSince: timestamppb.New(now.AddDate(0, 0, -30))},
		"--not-seen-for=90m --limit=2": {NotSeenSince: timestamppb.New(now.Add(-90 * time.Minute)), PageSize: 2},
		"--limit=5000 --os windows":    {OsType: "windows"},
	} {
		if want.PageSize == 0 {
			want.PageSize = 1000
		}
		c.prints(t, "No devices found\n", append([]string{"devices", "ls"}, strings.Fields(args)...)...)
		c.asked(t, want)
	}
	for _, wrong := range []string{"--os=amiga", "--enroll-status=half", "--attestation=foo", "--not-seen-for=soon", "--limit=-1"} {
		if r := c.run(t, "devices", "ls", wrong); r.status != 2 {
			t.Errorf("%s: %+v", wrong, r)
		}
	}
}

func TestAFrozenDeviceSaysSo(t *testing.T) {
	c := startCluster(t)
	c.put(t, strings.Replace(devices, "  owner: alice\n", "  owner: alice\n  frozen: {time: \"2026-03-01T08:00:00Z\", reason: its TPM went back}\n", 1))
	if out := c.good(t, "devices", "ls", "-v"); !strings.Contains(out, " enrolled, frozen ") {
		t.Error(out)
	}
	if out := c.good(t, "devices", "ls"); strings.Contains(out, "frozen") {
		t.Error(out)
	}
}

func TestTheDevicesOfAFileAreCreatedTogether(t *testing.T) {
	c := startCluster(t)
	name := file(t, fleet(3))
	c.prints(t, "3 devices have been created\n", "create", name)
	r := c.run(t, "create", name)
	if want := "ERROR: " + name + ": document 1: device PF000 is there\nReplace what exists with: dtctl create -f FILE\n"; r.status != 1 || r.errors != want || r.out != "" {
		t.Errorf("%+v, want %s", r, want)
	}
	if err := os.WriteFile(name, []byte(fleet(1004)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.prints(t, "1,001 devices have been created\n3 devices have been updated\n", "create", "-f", name)

	c = startCluster(t)
	r = c.run(t, "create", file(t, roles+fleet(2)))
	if want := "role \"a\" has been created\nrole \"b\" has been created\n2 devices have been created\n"; r.out != want || r.status != 0 {
		t.Errorf("%+v, want %s", r, want)
	}
	// A mistake in one of them is found before anything is sent.
	r = c.run(t, "create", file(t, strings.Replace(fleet(9), "asset_tag: PF007", "asset_tog: PF007", 1)))
	if r.status != 1 || !strings.Contains(r.errors, "line 32: ") || !strings.Contains(r.errors, "asset_tog") {
		t.Errorf("%+v", r)
	}
}

func TestNumbersArePrintedInThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0 devices", 1: "1 device", 999: "999 devices", 1000: "1,000 devices", 1234567: "1,234,567 devices"} {
		if got := counted(n, "device"); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestADeviceIsAddedAsInTheSeeds(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "Device C00AA0AAAA0A/macos added to the inventory\n",
		"devices", "add", "--os=macos", "--asset-tag=C00AA0AAAA0A")
	c.asked(t, &dtv1.AddDeviceRequest{OsType: "macos", AssetTag: "C00AA0AAAA0A"})

	c.answers["AddDevice"] = &dtv1.AddDeviceResponse{Device: []byte(`{"kind":"device"}`), Token: token}
	c.prints(t, `Device C00AA0AAAA0A/macos added to the inventory
Run the command below on device "C00AA0AAAA0A" to enroll it:
dtsh device enroll --token=AAAA
`, "devices", "add", "--os", "macos", "--asset-tag", "C00AA0AAAA0A", "--enroll", "--enroll-ttl=90m")
	c.asked(t, &dtv1.AddDeviceRequest{OsType: "macos", AssetTag: "C00AA0AAAA0A", Enroll: true, EnrollTtl: durationpb.New(90 * time.Minute)})
	c.prints(t, `{
  "device": {
    "kind": "device"
  },
  "token": "AAAA",
  "asset_tag": "C00AA0AAAA0A",
  "device_id": "`+macID+`",
  "expires": "2026-03-01T13:00:00Z"
}
`, "devices", "add", "--os=macos", "--asset-tag=C00AA0AAAA0A", "--enroll", "--format=json")
}

var token = &dtv1.EnrollToken{Token: "AAAA", AssetTag: "C00AA0AAAA0A", DeviceId: macID, Expires: timestamppb.New(now.Add(time.Hour))}

func TestTheCurrentDeviceIsAddedByWhatItCallsItself(t *testing.T) {
	c := startCluster(t)
	dmi := t.TempDir()
	if err := os.WriteFile(filepath.Join(dmi, "product_serial"), []byte("PF0AXYZ\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{"DTSH_DMI_DIR": dmi, "DTSH_TPM": filepath.Join(dmi, "none")}
	r := c.runWith(t, &cli.Env{Getenv: func(n string) string { return variables[n] }}, "devices", "add", "--current-device")
	if r.status != 0 || r.out != "Device PF0AXYZ/linux added to the inventory\n" {
		t.Errorf("%+v", r)
	}
	for args, want := range map[string]int{"--os=linux --asset-tag=PF0AXYZ": 0, "--os=linux --asset-tag=ANOTHER": 2, "--os=macos --asset-tag=PF0AXYZ": 2} {
		words := append([]string{"devices", "add", "--current-device"}, strings.Fields(args)...)
		if r := c.runWith(t, &cli.Env{Getenv: func(n string) string { return variables[n] }}, words...); r.status != want {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestAnEnrollmentTokenIsPrintedAsInTheSeeds(t *testing.T) {
	c := startCluster(t)
	c.answers["CreateEnrollToken"] = token
	c.prints(t, `Run the command below on device "C00AA0AAAA0A" to enroll it:
dtsh device enroll --token=AAAA
`, "devices", "enroll", "--asset-tag=C00AA0AAAA0A")
	c.asked(t, &dtv1.CreateEnrollTokenRequest{Device: &dtv1.DeviceRef{AssetTag: "C00AA0AAAA0A"}})
	c.prints(t, `{
  "token": "AAAA",
  "asset_tag": "C00AA0AAAA0A",
  "device_id": "`+macID+`",
  "expires": "2026-03-01T13:00:00Z"
}
`, "devices", "enroll", "--device-id="+macID, "--ttl=1h", "--format=json")
	c.asked(t, &dtv1.CreateEnrollTokenRequest{Device: &dtv1.DeviceRef{DeviceId: macID}, Ttl: durationpb.New(time.Hour)})
}

func TestARemovedDeviceIsCalledAsItWasGiven(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "Device \"C00AA0AAAA0A\" removed\n", "devices", "rm", "--asset-tag=C00AA0AAAA0A")
	c.asked(t, &dtv1.RemoveDeviceRequest{Device: &dtv1.DeviceRef{AssetTag: "C00AA0AAAA0A"}})
	c.prints(t, "Device \""+macID+"\" removed\n", "devices", "rm", "--device-id="+macID)
}
