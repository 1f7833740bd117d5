package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
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
