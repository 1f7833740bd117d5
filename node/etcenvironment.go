package node

import (
	"fmt"
	"strings"
)

// variables are an environment: of each name there is one, the last that was
// set.
type variables []string

func (v *variables) set(name, value string) {
	for i, old := range *v {
		if before, _, _ := strings.Cut(old, "="); before == name {
			(*v)[i] = name + "=" + value
			return
		}
	}
	*v = append(*v, name+"="+value)
}

func (v *variables) add(others []string) {
	for _, other := range others {
		name, value, _ := strings.Cut(other, "=")
		v.set(name, value)
	}
}

// siteEnvironment is what the machine's administrator gives to all sessions, in
// /etc/environment; none where there is no such file.
func (f loginFiles) siteEnvironment() (variables, error) {
	text, err := readSmall(f.environment, maxEnvironment)
	if absent(f.environment, err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseEnvironment(text)
}

// parseEnvironment reads KEY=VALUE lines as pam_env(8) does: "export " before
// them, comments, and quotes around a value that is all in them. A line that
// is none of it is left out, and the error tells.
func parseEnvironment(text string) (v variables, err error) {
	for number, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		value = unquoted(value)
		if !ok || !isEnvName(name) || strings.Contains(value, "\x00") || len(v) >= maxSiteEnv {
			err = fmt.Errorf("line %d of the environment is not KEY=VALUE, or one too many", number+1)
			continue
		}
		v.set(name, value)
	}
	return v, err
}

// unquoted: pam_env takes a quote off the beginning, and then one off the end
// (pam_env.c, _parse_env_file).
func unquoted(value string) string {
	if value != "" && (value[0] == '"' || value[0] == '\'') {
		value = value[1:]
		if n := len(value); n > 0 && (value[n-1] == '"' || value[n-1] == '\'') {
			value = value[:n-1]
		}
	}
	return value
}
