"""What is asked of AWS, as whole dicts; each passes EMR's own model of its requests."""

from __future__ import annotations

import dataclasses
import json

import pytest
from botocore.validate import validate_parameters

from aws.cluster import is_ours
from aws.requests import (
    build_cluster_request,
    build_node_policy,
    build_node_trust,
    build_pass_policy,
    build_service_trust,
)
from configs import DL_CFG, ConfigError, load_emr_config, load_etl_config
from tests.emr_emulator import MODEL, Fault, check_request

BASE = dataclasses.replace(
    load_emr_config(DL_CFG, environ={}), code_uri="s3://my-bucket/code", log_uri="s3://my-logs/emr"
)


def config(**changes):
    return dataclasses.replace(BASE, **changes)


def etl(**changes):
    return dataclasses.replace(load_etl_config(DL_CFG, environ={}), **changes)


def types(*names, gigabytes=64):
    volume = {"VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": gigabytes}}
    disk = {"EbsBlockDeviceConfigs": [{**volume, "VolumesPerInstance": 1}]}
    return [
        {"InstanceType": name, "WeightedCapacity": 1, "EbsConfiguration": disk} for name in names
    ]


def spot(minutes):
    return {
        "SpotSpecification": {
            "TimeoutDurationMinutes": minutes,
            "TimeoutAction": "SWITCH_TO_ON_DEMAND",
            "AllocationStrategy": "price-capacity-optimized",
        }
    }


EVERYTHING = {
    "cluster_name": "other",
    "release_label": "emr-7.12.0",
    "applications": ("Spark",),
    "master_types": ("m5.2xlarge",),
    "core_types": ("m5.xlarge", "m5a.xlarge"),
    "core_count": 3,
    "task_types": ("r5.xlarge",),
    "task_count": 4,
    "spot": ("core", "task"),
    "spot_wait_minutes": 30,
    "scaling_minimum": 2,
    "scaling_maximum": 20,
    "disk_gb": 100,
    "subnet_ids": ("subnet-1", "subnet-2"),
    "key_pair": "mine",
    "service_role": "role",
    "instance_profile": "profile",
    "security_configuration": "secure",
    "idle_minutes": 90,
    "termination_protection": True,
    "step_concurrency": 2,
    "spark": {"spark.a": "1"},
    "s3": {"fs.s3a.b": "2"},
    "tags": {"owner": "me"},
}


def test_the_default_cluster_is_this_request():
    assert build_cluster_request(config()) == {
        "Name": "sparkify",
        "LogUri": "s3://my-logs/emr/",
        "ReleaseLabel": "emr-7.13.0",
        "Applications": [{"Name": "Hadoop"}, {"Name": "Spark"}],
        "Instances": {
            "InstanceFleets": [
                {
                    "Name": "master",
                    "InstanceFleetType": "MASTER",
                    "TargetOnDemandCapacity": 1,
                    "InstanceTypeConfigs": types("m5.xlarge"),
                },
                {
                    "Name": "core",
                    "InstanceFleetType": "CORE",
                    "TargetOnDemandCapacity": 2,
                    "InstanceTypeConfigs": types("m5.xlarge"),
                },
            ],
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": False,
        },
        "Configurations": [
            {
                "Classification": "spark-defaults",
                "Properties": {"spark.yarn.maxAppAttempts": "1"},
            }
        ],
        "ServiceRole": "SparkifyEmrServiceRole",
        "JobFlowRole": "SparkifyEmrNodeRole",
        "SecurityConfiguration": "sparkify-imdsv2",
        "StepConcurrencyLevel": 1,
        "AutoTerminationPolicy": {"IdleTimeout": 3600},
        "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
        "VisibleToAllUsers": True,
        "Tags": [
            {"Key": "project", "Value": "sparkify-data-lake"},
            {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"},
        ],
    }


def test_a_cluster_that_ends_after_its_steps_needs_no_idle_timeout():
    kept, ended = (build_cluster_request(config(), ends_after_steps=ends) for ends in (False, True))

    assert ended["Instances"] == {**kept["Instances"], "KeepJobFlowAliveWhenNoSteps": False}
    assert kept.keys() - ended.keys() == {"AutoTerminationPolicy"}


def test_every_setting_of_dl_cfg_reaches_the_request():
    assert build_cluster_request(config(**EVERYTHING)) == {
        "Name": "other",
        "LogUri": "s3://my-logs/emr/",
        "ReleaseLabel": "emr-7.12.0",
        "Applications": [{"Name": "Spark"}],
        "Instances": {
            "InstanceFleets": [
                {
                    "Name": "master",
                    "InstanceFleetType": "MASTER",
                    "TargetOnDemandCapacity": 1,
                    "InstanceTypeConfigs": types("m5.2xlarge", gigabytes=100),
                },
                {
                    "Name": "core",
                    "InstanceFleetType": "CORE",
                    "TargetSpotCapacity": 3,
                    "InstanceTypeConfigs": types("m5.xlarge", "m5a.xlarge", gigabytes=100),
                    "LaunchSpecifications": spot(30),
                },
                {
                    "Name": "task",
                    "InstanceFleetType": "TASK",
                    "TargetSpotCapacity": 4,
                    "InstanceTypeConfigs": types("r5.xlarge", gigabytes=100),
                    "LaunchSpecifications": spot(30),
                },
            ],
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": True,
            "Ec2SubnetIds": ["subnet-1", "subnet-2"],
            "Ec2KeyName": "mine",
        },
        "Configurations": [
            {"Classification": "spark-defaults", "Properties": {"spark.a": "1"}},
            {"Classification": "core-site", "Properties": {"fs.s3a.b": "2"}},
        ],
        "ServiceRole": "role",
        "JobFlowRole": "profile",
        "SecurityConfiguration": "secure",
        "StepConcurrencyLevel": 2,
        "AutoTerminationPolicy": {"IdleTimeout": 5400},
        "ManagedScalingPolicy": {
            "ComputeLimits": {
                "UnitType": "InstanceFleetUnits",
                "MinimumCapacityUnits": 2,
                "MaximumCapacityUnits": 20,
            }
        },
        "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
        "VisibleToAllUsers": True,
        "Tags": [
            {"Key": "owner", "Value": "me"},
            {"Key": "project", "Value": "sparkify-data-lake"},
            {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"},
        ],
    }


def test_everything_above_differs_from_the_default_and_covers_every_setting():
    # Not part of the request, or above.
    elsewhere = {"region", "bucket", "code_uri", "log_uri", "prices"}

    assert set(EVERYTHING) == {field.name for field in dataclasses.fields(BASE)} - elsewhere
    assert all(getattr(BASE, key) != value for key, value in EVERYTHING.items())


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "everything"])
def test_requests_pass_botocores_validator_and_its_enums(changes):
    request, shape = build_cluster_request(config(**changes)), MODEL.operation_model("RunJobFlow")

    validate_parameters(request, shape.input_shape)
    check_request(request, shape.input_shape)


def test_the_enum_check_does_catch_what_botocores_validator_lets_pass():
    request, shape = build_cluster_request(config()), MODEL.operation_model("RunJobFlow")
    request["Instances"]["InstanceFleets"][0]["InstanceFleetType"] = "CHIEF"

    validate_parameters(request, shape.input_shape)
    with pytest.raises(Fault, match="CHIEF"):
        check_request(request, shape.input_shape)


@pytest.mark.parametrize(
    ("spot_kinds", "on_demand"), [((), ["MASTER", "CORE", "TASK"]), (("task",), ["MASTER", "CORE"])]
)
def test_only_the_named_kinds_are_spot_and_the_master_never_is(spot_kinds, on_demand):
    fleets = build_cluster_request(config(spot=spot_kinds, task_count=1))["Instances"]

    kinds = {
        fleet["InstanceFleetType"]
        for fleet in fleets["InstanceFleets"]
        if fleet.get("TargetOnDemandCapacity")
    }
    assert kinds == set(on_demand)


@pytest.mark.parametrize("key", ["project", "for-use-with-amazon-emr-managed-policies"])
def test_a_tag_that_the_scripts_go_by_cannot_be_overwritten(key):
    with pytest.raises(ConfigError, match=rf"\[tags\] {key}: the scripts set this tag themselves"):
        build_cluster_request(config(tags={key: "other"}))


def test_the_tag_in_the_request_is_the_one_that_clusters_are_found_by():
    assert is_ours({"Tags": build_cluster_request(config())["Tags"]})
    assert not is_ours({"Tags": []})


def test_the_request_says_nothing_of_where_the_code_or_the_keys_are():
    assert "s3://my-bucket/code" not in json.dumps(build_cluster_request(config()))


def test_nodes_may_read_the_code_and_the_sources_and_write_the_lake_and_the_logs_only():
    paths = etl(
        song_data="s3://songs/in",
        log_data="s3a://plays",
        output="s3://my-bucket/lake/",
        lock_minutes=1,
    )

    assert build_node_policy("aws", config(), paths) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetBucketLocation",
                    "s3:ListBucket",
                    "s3:ListBucketMultipartUploads",
                ],
                "Resource": [
                    "arn:aws:s3:::my-bucket",
                    "arn:aws:s3:::songs",
                    "arn:aws:s3:::plays",
                    "arn:aws:s3:::my-logs",
                ],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": [
                    "arn:aws:s3:::my-bucket/code/*",
                    "arn:aws:s3:::songs/in/*",
                    "arn:aws:s3:::plays/*",
                    "arn:aws:s3:::my-bucket/lake/*",
                    "arn:aws:s3:::my-logs/emr/*",
                ],
            },
            {
                "Effect": "Allow",
                "Action": [
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": ["arn:aws:s3:::my-bucket/lake/*", "arn:aws:s3:::my-logs/emr/*"],
            },
        ],
    }


def test_local_paths_of_the_job_give_nodes_no_rights():
    policy = json.dumps(build_node_policy("aws", config(), etl()))

    assert "data/song_data" not in policy
    assert "output" not in policy


def test_emr_may_take_on_its_role_for_this_account_only_in_each_region():
    assert build_service_trust("aws-cn", "123456789012") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "elasticmapreduce.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {
                    "StringEquals": {"aws:SourceAccount": "123456789012"},
                    "ArnLike": {"aws:SourceArn": "arn:aws-cn:elasticmapreduce:*:123456789012:*"},
                },
            }
        ],
    }


def test_emr_may_pass_the_nodes_role_and_no_other():
    assert build_pass_policy("aws", "123456789012", "nodes")["Statement"] == [
        {
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": "arn:aws:iam::123456789012:role/nodes",
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        }
    ]


def test_only_ec2_may_take_on_the_nodes_role():
    assert build_node_trust()["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]
