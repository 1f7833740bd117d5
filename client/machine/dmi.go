package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// firmware is what SMBIOS says (DMTF DSP0134, structures 1 to 3), or what the
// system has in its place.
type firmware struct {
	chassisAssetTag, productSerial, boardSerial, productName string
	// unreadable are files that exist and are not for us.
	unreadable []string
}

// hidden names a line of tmpfiles.d(5) for the first file: sysfs forgets a
// chmod at the next start.
func (f firmware) hidden() string {
	if len(f.unreadable) == 0 {
		return ""
	}
	return fmt.Sprintf("Only root can read %s: allow it with a line such as 'z %s 0440 - tss' in /etc/tmpfiles.d/dt.conf, or set an asset tag in the firmware.",
		strings.Join(f.unreadable, ", "), f.unreadable[0])
}

// dmi reads the files that Linux makes of the firmware's tables; where there
// are none, it is empty.
func (s Source) dmi() firmware {
	dir := s.DMIDir
	if dir == "" {
		dir = DefaultDMIDir
	}
	var f firmware
	for _, file := range []struct {
		name string
		into *string
	}{
		{"chassis_asset_tag", &f.chassisAssetTag},
		{"product_serial", &f.productSerial},
		{"board_serial", &f.boardSerial},
		{"product_name", &f.productName},
	} {
		path := filepath.Join(dir, file.name)
		data, err := readBounded(path, maxField)
		if errors.Is(err, os.ErrPermission) {
			f.unreadable = append(f.unreadable, path)
		}
		*file.into = field(string(data))
	}
	return f
}

// readBounded reads at most limit bytes; more is no such file at all.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errors.New("it is too long")
	}
	return data, nil
}
