package clienttest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"devicetrust/devices/tpm/tpmtest"
)

// Remember writes the file at path that remembers an enrollment of the machine
// with that TPM in the cluster, which never heard of it.
func Remember(t testing.TB, chip *tpmtest.TPM, path string) {
	t.Helper()
	unique := make([]byte, 32)
	unique[0] = 1
	var public []byte
	chip.Do(t, func(c transport.TPM) error {
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHEndorsement,
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type:    tpm2.TPMAlgECC,
				NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{
					FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
					UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
				},
				Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
					Scheme: tpm2.TPMTECCScheme{
						Scheme:  tpm2.TPMAlgECDSA,
						Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
					},
					CurveID: tpm2.TPMECCNistP256,
				}),
				Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
					X: tpm2.TPM2BECCParameter{Buffer: unique},
					Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
				}),
			}),
		}.Execute(c)
		if err != nil {
			return err
		}
		public = rsp.OutPublic.Bytes()
		_, err = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(c)
		return err
	})
	credential := sha256.Sum256(public)
	data, err := json.Marshal(map[string]any{"version": 2, "clusters": map[string]any{Name: map[string]any{
		"credential_id": hex.EncodeToString(credential[:]), "device_id": Device.ID, "asset_tag": Device.AssetTag, "unique": unique,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
