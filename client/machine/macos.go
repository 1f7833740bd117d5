package machine

import "strings"

// serialNumber takes the machine's serial number out of what ioreg(8) prints
// of class IOPlatformExpertDevice: lines of "KEY" = VALUE, text in quotes.
func serialNumber(text []byte) string {
	for l := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(l), " = ")
		if !ok || key != `"IOPlatformSerialNumber"` {
			continue
		}
		if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
			return ""
		}
		return field(value[1 : len(value)-1])
	}
	return ""
}

// jamfVersion takes the version out of what "jamf version" prints:
// version=NUMBER.
func jamfVersion(text []byte) string {
	value, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "version=")
	if !ok {
		return ""
	}
	return field(value)
}

// enrollmentProfiles makes one line of the few that "profiles status -type
// enrollment" prints.
func enrollmentProfiles(text []byte) string {
	var lines []string
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return field(strings.Join(lines, "; "))
}
