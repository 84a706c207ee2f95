-- public_cohort.sql: the public replication cohort, one CT series a chest study, 599 studies.
-- Source : Imaging Data Commons, release v25, table idc_index (one row a DICOM series) of the package idc-index-data 25.0.5 (MIT).
-- Run    : `covid3d public select` runs it on the installed index; public_cohort.csv is what it gave, 599 rows.
-- Labels : RICORD-1a, NY-SBU, AR = COVID+ (RT-PCR); RICORD-1b = COVID- test (NOT necessarily pneumonia).
-- Licence: RICORD CC BY-NC 4.0; NY-SBU, AR CC BY 4.0 (column license_short_name; citations in public_collections.csv).
WITH ct AS (
  SELECT collection_id, PatientID, StudyInstanceUID, SeriesInstanceUID, crdc_series_uuid, series_aws_url,
         instanceCount, round(series_size_MB,2) AS series_size_MB, StudyDate, PatientAge, PatientSex,
         Manufacturer, ManufacturerModelName, license_short_name, transfer_syntax_name, BodyPartExamined,
         StudyDescription, SeriesDescription, try_cast(SeriesNumber AS DOUBLE) AS sn,
         upper(coalesce(StudyDescription,'')) AS std, upper(coalesce(SeriesDescription,'')) AS sd,
         -- RICORD site is in PatientID. Do not use the UID root: 1B-440808 series sit under root 954795,
         -- and SITE2 has no site number in its UIDs.
         CASE WHEN collection_id LIKE 'midrc_ricord%' THEN regexp_extract(PatientID,'^MIDRC-RICORD-1[AB]-([A-Z0-9]+)-',1)
              WHEN collection_id='covid_19_ny_sbu' THEN 'NYSBU' ELSE 'AR' END AS site
  FROM idc_index
  WHERE Modality='CT'
    AND SOPClassUID='1.2.840.10008.5.1.4.1.1.2'        -- true CT Image Storage (drops AR secondary captures)
    AND collection_id IN ('midrc_ricord_1a','midrc_ricord_1b','covid_19_ny_sbu','covid_19_ar')
), chest AS (                                          -- chest studies only
  SELECT * FROM ct
  WHERE collection_id LIKE 'midrc_ricord%'
     OR (collection_id='covid_19_ny_sbu' AND std LIKE 'CT CHEST%' AND std NOT LIKE '%SEE AB/PEL%')
     OR (collection_id='covid_19_ar' AND std LIKE '%CHEST%')
), axial AS (                                          -- axial-like HU series
  SELECT *,
    -- 1 = preferred reconstruction, larger = worse. Same rule for both labels inside a site.
    CASE
      WHEN collection_id='covid_19_ny_sbu' THEN CASE
        WHEN regexp_matches(sd,'^LUNG (HR )?1\.25|^HR CHEST|^HI RES CHEST|^1\.25 X 1\.25 (HIGH|LUNG)|^LUNG 1\.0') THEN 1
        WHEN regexp_matches(sd,'^CHEST 1\.25|^CHEST 2\.5|^1\.25 X 1\.25|^(CTA|BODY) 1\.0|^CTA 0\.5|STANDARD 2\.5|^2\.5 X 2\.5|^3X3 AXIAL|B70S') THEN 2
        WHEN regexp_matches(sd,'LUNG 5|LUNG 5X5|5\.0 X 5\.0 LUNG|AXIAL/LUNG|CHEST 5X5') THEN 3
        WHEN regexp_matches(sd,'5 MM STANDARD|5\.0 X 5\.0 STANDARD|BODY 5\.0|CTA 5\.0|THICK AXIALS|B30S') THEN 4
        ELSE 6 END
      WHEN collection_id='covid_19_ar' THEN CASE
        WHEN sd IN ('3MM','3X3''S','3MM ART','3MM VENOUS','VEN 3/3','ART','VENOUS') OR SeriesDescription IS NULL THEN 1
        WHEN sd IN ('1MM','THINS','VOL.','MERGED','ART THINS','ARTERIAL 1MM') THEN 2 ELSE 6 END
      ELSE CASE                                         -- RICORD: routine soft/standard ~1.25-3 mm first
        WHEN regexp_matches(sd,'BONE|DETAIL') THEN 4    -- 0.625 mm sharp kernel exists only in 1a => shortcut
        WHEN regexp_matches(sd,'KEV') THEN 3            -- monoenergetic reconstruction
        WHEN instanceCount < 60 THEN 2 ELSE 1 END
    END AS pref
  FROM chest
  WHERE instanceCount BETWEEN 40 AND 720
    AND NOT regexp_matches(sd,'COR|SAG|MIP|MPR|SCOUT|SURVIEW|LOCATOR|TOPOGRAM|IODINE|REFORMAT|RFMT|^REF|SMART PREP SERIES|LUMBAR|SPINE|KIDNEY|KID DEL|BLAD|DELAY|PROCESSED|ABD|PELVIS')
    AND NOT (collection_id='covid_19_ny_sbu' AND regexp_matches(sd,'^(BODY|CTA) (3\.0|3\.00|15\.|20\.)'))  -- Toshiba 3 mm = 2 reformats/study
    AND NOT (collection_id='covid_19_ny_sbu' AND coalesce(BodyPartExamined,'') LIKE 'ABDOMEN%')
), ranked AS (
  SELECT *, row_number() OVER (PARTITION BY StudyInstanceUID ORDER BY pref, abs(instanceCount-240), sn, SeriesInstanceUID) AS r,
         count(*) OVER (PARTITION BY StudyInstanceUID) AS n_candidates
  FROM axial
), one AS (SELECT * FROM ranked WHERE r=1),
ordered AS (                                            -- longitudinal order inside a patient
  SELECT *, row_number() OVER w AS scan_order, count(*) OVER (PARTITION BY PatientID) AS n_scans_patient,
         date_diff('day', min(try_cast(StudyDate AS DATE)) OVER (PARTITION BY PatientID), try_cast(StudyDate AS DATE)) AS day_from_first,
         date_diff('day', lag(try_cast(StudyDate AS DATE)) OVER w, try_cast(StudyDate AS DATE)) AS gap_prev_days
  FROM one WINDOW w AS (PARTITION BY PatientID ORDER BY StudyDate, StudyInstanceUID)
)
SELECT collection_id AS collection, PatientID, StudyInstanceUID, SeriesInstanceUID, crdc_series_uuid, series_aws_url,
       instanceCount, series_size_MB, StudyDate, PatientAge, PatientSex, Manufacturer,
       CASE WHEN collection_id='midrc_ricord_1b' THEN 0 ELSE 1 END AS label,
       CASE
         WHEN site='SITE2'  AND scan_order=1 THEN 'A_train_10fold'
         WHEN site='660042' AND scan_order=1 THEN 'B_external'
         WHEN site='440808' AND scan_order=1 THEN 'C_external'
         WHEN site='419639' AND scan_order=1 THEN 'D_external_extra'
         WHEN site='NYSBU'  AND n_scans_patient>=2 THEN 'followup_prognosis'
         WHEN site='NYSBU'  THEN 'prognosis_single_scan'
         WHEN site='AR'     THEN 'positive_only_external'
         ELSE 'followup_ricord' END AS proposed_role,
       site, scan_order, n_scans_patient, day_from_first, gap_prev_days, n_candidates, pref AS series_pref,
       license_short_name, transfer_syntax_name, StudyDescription, SeriesDescription, BodyPartExamined,
       CASE WHEN regexp_matches(sd,'STROKE|NECK|C/A/P|CHEST TO|AB/PEL|TAP ') OR std LIKE '%ABD%' THEN 'extended_fov'
            WHEN pref>=3 AND collection_id LIKE 'midrc%' THEN 'non_routine_recon'
            WHEN instanceCount<60 OR instanceCount>450 THEN 'slice_count' ELSE '' END AS qc_flag
FROM ordered
ORDER BY collection_id, PatientID, scan_order
