package machine

import "strings"

// osRelease reads the assignments of os-release(5), of which this is the
// part that matters: NAME=value, the value in single or double quotes where it
// needs them, "\" before what a shell would read otherwise.
func (s Source) osRelease() map[string]string {
	name := s.OSRelease
	if name == "" {
		name = DefaultOSRelease
	}
	data, err := readBounded(name, maxOSRelease)
	if err != nil {
		return nil
	}
	values := map[string]string{}
	for l := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(l), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		values[key] = field(unquote(value))
	}
	return values
}

func unquote(value string) string {
	if len(value) < 2 || value[0] != value[len(value)-1] {
		return value
	}
	switch value[0] {
	case '\'':
		return value[1 : len(value)-1]
	case '"':
		return strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\$`, `$`, "\\`", "`").Replace(value[1 : len(value)-1])
	}
	return value
}
