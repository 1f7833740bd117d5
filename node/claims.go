package node

import (
	"fmt"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"devicetrust/api/dtv1"
	"devicetrust/durable"
	"devicetrust/resource"
)

// claimsFile is what a stock sshd says of itself, for its side-car: that is
// started without the words that it was installed with.
const claimsFile = "claims.json"

func saveClaims(dir string, info *dtv1.NodeInfo) error {
	text, err := protojson.Marshal(info)
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(dir, claimsFile), append(text, '\n'))
}

// loadClaims gives what saveClaims saved, with the version that runs now.
func loadClaims(dir, version string) (*dtv1.NodeInfo, error) {
	text, err := durable.Read(filepath.Join(dir, claimsFile), maxClaims)
	if err != nil {
		return nil, err
	}
	info := &dtv1.NodeInfo{}
	if err := protojson.Unmarshal(text, info); err != nil {
		return nil, fmt.Errorf("%s: %w", claimsFile, err)
	}
	if info.GetName() == "" || len(info.GetAddresses()) == 0 || info.GetEnforcer() != resource.EnforcerSSHD {
		return nil, fmt.Errorf("%s is not what install wrote", claimsFile)
	}
	info.Version = version
	return info, nil
}
