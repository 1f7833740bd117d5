package node

// closedFor tells why nobody but root may log in now (nologin(5)); "" where
// they may. A file that is there and cannot be read closes as well.
func (f loginFiles) closedFor(uid uint32) string {
	if uid == 0 {
		return ""
	}
	for _, path := range f.nologin {
		text, err := readSmall(path, maxNologin)
		switch {
		case absent(path, err):
		case err != nil || plain(text) == "":
			return "nobody may log in to this machine at present"
		default:
			return "nobody may log in to this machine at present: " + plain(text)
		}
	}
	return ""
}
