package sshd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"devicetrust/durable"
)

// marker is the first line of the drop-in: a file without it is not ours.
const marker = "# Written by dtnoded sshd install. dtnoded sshd uninstall takes it away.\n"

// directive is one option of the drop-in.
type directive struct {
	option, value string
	why           string
}

// dropInLines are all that is set. Every way in but a certificate of the
// cluster's, which the helper lets through, is closed (docs/operating.md).
func dropInLines(dir Dir, noded, hostKeyType string) []directive {
	return []directive{
		{"TrustedUserCAKeys", dir.UserCA(), "Certificates of the cluster's are believed, and"},
		{"AuthorizedPrincipalsCommand", noded + " sshd principals --dir=" + string(dir) + " " + Tokens,
			"whom they let in as whom is decided here, by the cluster's policy,"},
		{"AuthorizedPrincipalsCommandUser", "nobody", "without any rights."},
		{"AuthorizedPrincipalsFile", "none", "No file lets in whom the policy does not."},
		{"AuthorizedKeysFile", "none", "Keys are looked at before certificates, and know of no device."},
		{"AuthorizedKeysCommand", "none", "The same."},
		{"AuthenticationMethods", "publickey", "No password stands for a certificate."},
		{"RevokedKeys", dir.KRL(), "Revoked certificates, also while the helper cannot be asked."},
		{"HostCertificate", dir.HostCertificate(hostKeyType), "People's machines know the server by it."},
		{"ExposeAuthInfo", "yes", "By this it is known which session is to end when its certificate is revoked."},
		{"AllowStreamLocalForwarding", "no", "permitopen, by which roles limit forwarding, does not hold for sockets."},
	}
}

func dropInText(lines []directive) []byte {
	var b bytes.Buffer
	b.WriteString(marker)
	for _, l := range lines {
		fmt.Fprintf(&b, "\n# %s\n%s %s\n", l.why, l.option, l.value)
	}
	return b.Bytes()
}

// overruled names a line that is not in force, and what is; "" where all are.
func overruled(lines []directive, f inForce) string {
	for _, l := range lines {
		got := f[strings.ToLower(l.option)]
		// Certificates add up; of all else there is one.
		if slices.Contains(got, l.value) && (len(got) == 1 || l.option == "HostCertificate") {
			continue
		}
		if len(got) == 0 {
			return fmt.Sprintf("%s is not %s: it is not set", l.option, l.value)
		}
		return fmt.Sprintf("%s is not %s but %.200q", l.option, l.value, strings.Join(got, " "))
	}
	return ""
}

// checkDropIn tells whether there is a drop-in of ours; one of somebody else's
// is refused.
func checkDropIn(path string) (there bool, err error) {
	if there, err = checkMade(path, false); !there || err != nil {
		return there, err
	}
	text, err := durable.Read(path, maxDropIn)
	if err != nil {
		return true, err
	}
	if !bytes.HasPrefix(text, []byte(marker)) {
		return true, fmt.Errorf("%s is there, and dtnoded has not written it", path)
	}
	return true, nil
}

// includes gives the words of a configuration's Include lines, before its first
// Match block, that take path in; in a Match block ours would hold for some only.
func includes(config []byte, path string) []string {
	var found []string
	for l := range strings.Lines(string(config)) {
		words := strings.FieldsFunc(l, func(r rune) bool { return strings.ContainsRune(" \t\r\n\f\"=", r) })
		if len(words) == 0 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "match":
			return found
		case "include":
			for _, pattern := range words[1:] {
				if covers(pattern, path) {
					found = append(found, pattern)
				}
			}
		}
	}
	return found
}

// covers: patterns that do not begin at the root begin at /etc/ssh, wherever the
// configuration is (sshd_config(5)).
func covers(pattern, path string) bool {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join("/etc/ssh", pattern)
	}
	if ok, err := filepath.Match(pattern, path); ok && err == nil {
		return true
	}
	// The folder may have two names.
	dir, err := filepath.EvalSymlinks(filepath.Dir(pattern))
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false
	}
	ok, err := filepath.Match(filepath.Base(pattern), filepath.Base(path))
	return ok && err == nil && dir == real
}

// includeLine is what is missing where includes is false.
func includeLine(config string) string {
	return "Include " + filepath.Join(filepath.Dir(DropIn(config)), "*.conf")
}

// isThere tells whether something has the name path.
func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
